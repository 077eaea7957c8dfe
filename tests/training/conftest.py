"""Fixtures for tests of training."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.tiny_images import make_images, one_thread, save_teacher_weights


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="session")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher_weights(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")
