"""Fixtures for tests of training."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.tiny_images import make_images, one_thread, save_teacher_weights, tiny_settings
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.train import train
from vit_interactions.training.trainer import Trainer


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


@pytest.fixture(scope="session")
def settings(image_folder: Path) -> TrainingSettings:
    return tiny_settings(image_folder, model="test_vit", ema=0.9, checkpoint_every=2, val_split="")


@pytest.fixture(scope="session")
def stopped(settings: TrainingSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that ended in the middle of its second epoch, with a checkpoint of step 4."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train_step = Trainer.train_step

    def failing(self: Trainer, batches: Iterator[Any]) -> None:
        train_step(self, batches)
        if self.step == 5:
            raise MemoryError

    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", failing)
        with pytest.raises(MemoryError):
            train(settings, out)
    return out


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    """Return a copy of the stopped run."""
    return shutil.copytree(stopped, tmp_path / "run")
