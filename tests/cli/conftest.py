"""Fixtures for tests of the command line."""

from pathlib import Path

import pytest

from tests.helpers.noise import write_noise
from tests.helpers.sharp_vit import save_sharp_vit


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_sharp_vit(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_noise(tmp_path / "images", {"wide": (90, 200), "tall": (200, 90)})
