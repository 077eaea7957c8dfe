"""Placements against ramps sent through transforms."""

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import ResizeKeepRatio
from torchvision import transforms

from vit_interactions import token_layout
from vit_interactions.figures import Placement, place, prepare

SIZES = [(300, 200), (200, 300), (97, 401), (401, 97), (40, 31), (256, 256), (224, 224)]


def seen_coordinates(transform: transforms.Compose, size: tuple[int, int]) -> np.ndarray:
    """Return the (y, x) of the original that each input pixel shows, by transforming ramps."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    return np.stack([transform(Image.fromarray(ramp))[0].numpy() for ramp in (y, x)])


def assert_placed(transform: transforms.Compose, size: tuple[int, int]) -> None:
    seen = seen_coordinates(transform, size)
    placement = place(transform, size)
    assert (placement.height, placement.width) == seen.shape[1:]
    rows, cols = np.mgrid[: placement.height, : placement.width] + 0.5
    y = placement.top + placement.scale_y * rows
    x = placement.left + placement.scale_x * cols
    # Resampling bends the ramps near the image's edges, and padding is black.
    margin = 3 * max(placement.scale_x, placement.scale_y, 1.0)
    inside = (margin < y) & (y < size[0] - margin) & (margin < x) & (x < size[1] - margin)
    assert inside.sum() >= 100
    np.testing.assert_allclose(seen[0][inside], y[inside], atol=0.1)
    np.testing.assert_allclose(seen[1][inside], x[inside], atol=0.1)
    beyond = (y < -margin) | (y > size[0] + margin) | (x < -margin) | (x > size[1] + margin)
    assert (seen[:, beyond] == 0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("input_size", [(224, 224), (128, 256), (96, 65)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_placement_agrees_with_ramps_sent_through_timms_transforms(size, input_size, crop_mode, crop_pct):
    transform = create_transform(
        (3, *input_size), crop_mode=crop_mode, crop_pct=crop_pct, interpolation="bicubic", mean=(0.0,), std=(1.0,)
    )
    assert_placed(transform, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "steps",
    [
        [transforms.Resize(64), transforms.CenterCrop((63, 50))],
        [transforms.Resize([64]), transforms.CenterCrop([41])],
        [transforms.Resize((50, 90))],
        [transforms.Resize(64, max_size=100), transforms.CenterCrop(120)],
        [transforms.CenterCrop((211, 333))],  # pads smaller images by odd numbers
        [transforms.Compose([ResizeKeepRatio((70, 90), longest=0.3)]), transforms.CenterCrop(60)],
        [],
    ],
    ids=str,
)
def test_placement_agrees_with_ramps_sent_through_other_transforms(size, steps):
    assert_placed(transforms.Compose([*steps, transforms.ToTensor()]), size)


def test_unknown_steps_raise_with_their_name():
    with pytest.raises(ValueError, match=r"`transform` must consist of Resize, .*got a step RandomHorizontalFlip"):
        place(transforms.Compose([transforms.Resize(8), transforms.RandomHorizontalFlip()]), (10, 10))
    with pytest.raises(ValueError, match="must be deterministic, got a ResizeKeepRatio"):
        place(ResizeKeepRatio(8, random_scale_prob=0.5), (10, 10))


def test_boxes_of_grid_and_patches():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=1)
    transform = transforms.Compose([transforms.Resize((64, 96)), transforms.ToTensor()])
    prepared = prepare(Image.new("RGB", (480, 640)), model, transform)
    layout = token_layout(model, (64, 96))
    assert prepared.placement == Placement(64, 96, scale_x=5.0, scale_y=10.0)
    assert prepared.box_of_extent(layout.extent) == (0.0, 0.0, 480.0, 640.0)
    assert prepared.patch_box(1, 4, layout) == (320.0, 160.0, 400.0, 320.0)
