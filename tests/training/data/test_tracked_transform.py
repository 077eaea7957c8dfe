"""Tests of a transform that records the source pixels of its output."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import rand_augment_transform
from torchvision import transforms

from vit_interactions.training.data.tracked_transform import TrackedTransform

SIZE = 64


def seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def position_image() -> Image.Image:
    """Return an image whose red encodes x and whose green encodes y, in 256ths of its sides."""
    y, x = np.mgrid[:256, :256]
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "timm": lambda: create_transform(SIZE, is_training=True, hflip=0.5, color_jitter=0.0, re_prob=0.0),
    "timm, for the prefetcher": lambda: create_transform(
        SIZE, is_training=True, color_jitter=None, use_prefetcher=True
    ),
    "timm, all that stays in place": lambda: create_transform(
        SIZE, is_training=True, color_jitter=0.4, color_jitter_prob=0.5, grayscale_prob=0.3, re_prob=0.5
    ),
    "torchvision": lambda: transforms.Compose(
        [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    ),
    "mirrored first, cropped twice": lambda: transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(200, scale=(0.3, 0.9)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(SIZE, scale=(0.3, 0.9)),
            transforms.PILToTensor(),
        ]
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_image_equals_the_output_of_the_transform(name: str) -> None:
    transform, followed = TRANSFORMS[name](), TrackedTransform(TRANSFORMS[name]())
    for value in range(10):
        seed(value)
        expected = transform(position_image())
        seed(value)
        got = followed(position_image())
        assert torch.equal(torch.as_tensor(np.asarray(got.image)), torch.as_tensor(np.asarray(expected)))
        assert random.random() == (seed(value), transform(position_image()), random.random())[2]


@pytest.mark.parametrize("name", ["timm, for the prefetcher", "torchvision", "mirrored first, cropped twice"])
def test_box_is_the_origin_of_the_pixels(name: str) -> None:
    followed, flips = TrackedTransform(TRANSFORMS[name]()), set()
    for value in range(20):
        seed(value)
        image, (top, left, height, width), flip = followed(position_image())
        red, green = (image[:2].float() / (1 if image.dtype == torch.uint8 else 1 / 255)) / 256
        along = (torch.arange(SIZE) + 0.5) / SIZE
        x = left + width * (1 - along if flip else along)
        assert (red - x).abs().max() < 0.02
        assert (green - (top + height * along)[:, None]).abs().max() < 0.02
        flips.add(flip)
    assert flips == {True, False}


def test_transform_that_moves_pixels_raises() -> None:
    moving = [
        rand_augment_transform("rand-m9-mstd0.5", {}),
        transforms.RandomRotation(10),
        transforms.RandomVerticalFlip(),
        transforms.RandomApply([transforms.RandomAffine(5)]),
        transforms.Resize(32),
        transforms.CenterCrop(32),
    ]
    for step in moving:
        with pytest.raises(ValueError, match=r"`transform` must consist of .*, got a step [RC]"):
            TrackedTransform(transforms.Compose([transforms.RandomResizedCrop(SIZE), step]))
    with pytest.raises(ValueError, match=r"got a step RandAugment\. Remove it, or use a teacher online"):
        TrackedTransform(create_transform(SIZE, is_training=True, auto_augment="rand-m9"))
