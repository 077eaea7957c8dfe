"""Loaders: batch sizes, and batches equal to timm's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.tiny_images import (
    CLASSES,
    TRAIN,
    tiny_settings,
)
from vit_interactions.training.data.datasets import open_split
from vit_interactions.training.data.loaders import (
    TrainingLoader,
    batch_size_per_process,
    training_transform,
)
from vit_interactions.training.data.sampling import TrainingBatchSampler
from vit_interactions.training.data.unreadable import TransformedImages
from vit_interactions.utilities.processes import Process

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


CPU = Process(torch.device("cpu"))


def test_a_step_must_be_divisible(image_folder: Path) -> None:
    assert batch_size_per_process(tiny_settings(image_folder, batch_size=24, accumulate=3), world=2) == 4
    with pytest.raises(ValueError, match=r"`batch_size` must be a multiple of 6, .* got 8"):
        batch_size_per_process(tiny_settings(image_folder, accumulate=3), world=2)
    with pytest.raises(ValueError, match="must give even batches for `mixup` and `cutmix`, got 3"):
        batch_size_per_process(tiny_settings(image_folder, batch_size=6, accumulate=2, mixup=0.5), world=1)


def test_batches_equal_timms(image_folder: Path) -> None:
    """Without augmentation, a batch is (images - mean) / std, as in timm's loader."""
    settings = tiny_settings(image_folder, batch_size=4, scale=1.0, hflip=0.0, color_jitter=0.0)
    config = {"input_size": (3, 40, 48), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    dataset = open_split(image_folder, "train")
    samples = TransformedImages(dataset, training_transform(settings, config))
    loader = TrainingLoader(samples, settings, config, CPU)
    images, classes, weight = next(loader.batches(0, 0))
    assert weight == 1
    order = next(iter(TrainingBatchSampler(CLASSES * TRAIN, 4)))
    for image, number, (_, index) in zip(images, classes, order, strict=True):
        plain = open_split(image_folder, "train")
        original, expected_class = plain[index]
        pixels = torch.from_numpy(np.asarray(original.resize((48, 40))).copy()).float() / 255
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        assert number == expected_class
        # The full channel of the class stays full under any crop; the rest is noise.
        channel = int(number)
        torch.testing.assert_close(
            image[channel], torch.full((40, 48), float((1 - mean[channel]) / std[channel])), rtol=1e-5, atol=1e-5
        )
        assert pixels[..., channel].eq(1).all()
    assert loader.steps == CLASSES * TRAIN // 4
