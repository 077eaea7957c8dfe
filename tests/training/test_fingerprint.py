"""Test that resuming with other images or another model raises an error."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm

from tests.helpers.tiny_images import tiny_settings
from tests.helpers.trained import refused
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.train import train

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def test_resume_with_other_image_names_raises(
    settings: TrainingSettings, image_folder: Path, out: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(image_folder, tmp_path / "moved")
    image = next((moved / "train" / "class0").iterdir())
    image.rename(image.with_name("other.png"))
    other = tiny_settings(moved, **{k: v for k, v in vars(settings).items() if k != "data"})
    assert "`data` must be the images that the run started with, got other names" in refused(other, out)
    image.with_name("other.png").rename(image)
    assert train(other, out, resume=True).step == 6


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        (
            "pretrained_cfg",
            {"mean": (0.4, 0.5, 0.5)},
            "must come with the model's input size, mean, std, crop and",
        ),
        (
            "pretrained_cfg",
            {"interpolation": "nearest"},
            "must come with the model's input size, mean, std, crop and",
        ),
        ("depth", 7, "must come with the model that the run started with, got other arguments or other code"),
    ],
)
def test_resume_with_other_model_options_raises(
    attribute: str, value: Any, words: str, settings: TrainingSettings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model

    def changed(*arguments: Any, **options: Any) -> Any:
        model = create(*arguments, **options)
        before = getattr(model, attribute, None)
        setattr(model, attribute, {**before, **value} if isinstance(before, dict) else value)
        return model

    monkeypatch.setattr(timm, "create_model", changed)
    assert words in refused(settings, out)
