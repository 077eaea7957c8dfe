"""A photograph is read as it was taken, and the model's view of it is placed where it lies."""

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import ResizeKeepRatio
from torch import nn
from torchvision import transforms

from vit_interactions import token_layout
from vit_interactions.figures import Placement, load_photograph, place, prepare, preprocessing
from vit_interactions.figures.photograph import to_rgb

SIZES = [(300, 200), (200, 300), (97, 401), (401, 97), (40, 31), (256, 256), (224, 224)]


def seen_coordinates(transform: transforms.Compose, size: tuple[int, int]) -> np.ndarray:
    """Which (y, x) of the photograph each pixel of the input shows: ramps through the transform itself."""
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
    # Resampling bends the ramps near the photograph's edges, and padding is black.
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
        [transforms.CenterCrop((211, 333))],  # padded where the photograph is smaller, by odd numbers
        [transforms.Compose([ResizeKeepRatio((70, 90), longest=0.3)]), transforms.CenterCrop(60)],
        [],
    ],
    ids=str,
)
def test_placement_agrees_with_ramps_sent_through_other_transforms(size, steps):
    assert_placed(transforms.Compose([*steps, transforms.ToTensor()]), size)


def test_unknown_steps_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`transform` must consist of Resize, .*has a step RandomHorizontalFlip"):
        place(transforms.Compose([transforms.Resize(8), transforms.RandomHorizontalFlip()]), (10, 10))
    with pytest.raises(ValueError, match="ResizeKeepRatio draws at random"):
        place(ResizeKeepRatio(8, random_scale_prob=0.5), (10, 10))


def test_boxes_of_a_grid_and_its_patches_in_the_photograph():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=1)
    transform = transforms.Compose([transforms.Resize((64, 96)), transforms.ToTensor()])
    photograph = prepare(Image.new("RGB", (480, 640)), model, transform)
    layout = token_layout(model, (64, 96))
    assert photograph.placement == Placement(64, 96, scale_x=5.0, scale_y=10.0)
    assert photograph.box_of_extent(layout.extent) == (0.0, 0.0, 480.0, 640.0)
    assert photograph.patch_box(1, 4, layout) == (320.0, 160.0, 400.0, 320.0)


def test_preparation_is_timms_own():
    model = timm.create_model("test_vit")
    image = Image.effect_noise((230, 170), 60).convert("RGB")
    config = timm.data.resolve_model_data_config(model)
    expected = timm.data.create_transform(**config, is_training=False)(image)
    assert torch.equal(prepare(image, model).input, expected)
    assert torch.equal(prepare(image, nn.DataParallel(model)).input, expected)
    assert torch.equal(prepare(image, nn.Sequential(model)).input, expected)


def test_preparation_follows_the_size_that_the_model_was_built_for():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 160), depth=1)
    assert prepare(Image.new("RGB", (300, 200)), model).input.shape == (3, 64, 160)


def test_a_model_that_does_not_state_its_preprocessing_needs_a_transform():
    with pytest.raises(
        ValueError, match=r"`model` must have timm's `pretrained_cfg`.*Linear has none.*`transform`"
    ):
        preprocessing(nn.Linear(1, 1))
    given = transforms.Compose([transforms.Resize((4, 6)), transforms.ToTensor()])
    assert prepare(Image.new("L", (12, 8)), nn.Linear(1, 1), given).input.shape == (3, 4, 6)


def test_pictures_of_every_mode_become_rgb(tmp_path: Path):
    orange = Image.new("RGB", (8, 6), (240, 120, 0))
    for mode in ("RGB", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        orange.convert(mode).save(path)
        loaded = load_photograph(path)
        assert loaded.mode == "RGB"
        np.testing.assert_allclose(loaded.getpixel((3, 3)), (240, 120, 0), atol=26 if mode == "P" else 1)
    for mode, grey in (("L", 128), ("LA", 128), ("1", 255)):
        path = tmp_path / f"{mode}.png"
        Image.new("L", (8, 6), grey).convert(mode).save(path)
        assert load_photograph(path).getpixel((3, 3)) == (grey, grey, grey)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(load_photograph(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 1, 128, 255]
    with pytest.raises(ValueError, match="8 or 16 bits a channel, but has float32"):
        to_rgb(Image.fromarray(np.ones((2, 2), dtype=np.float32)))


def test_transparent_parts_become_white(tmp_path: Path):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "hole.png", transparency=bytes([0, 255]))
    loaded = load_photograph(tmp_path / "hole.png")
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 1)) == (0, 0, 255)


def test_pictures_are_turned_the_way_up_that_they_were_taken(tmp_path: Path):
    picture = Image.new("RGB", (20, 10))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    loaded = load_photograph(tmp_path / "turned.png")
    assert loaded.size == (10, 20)
    assert loaded.getpixel((9, 0)) == (255, 255, 255)


def assert_refused_once(path: Path) -> str:
    """The reason, which follows the file's name and does not repeat it."""
    with pytest.raises(ValueError, match="is not a picture that can be read") as caught:
        load_photograph(path)
    start, reason = f"`{path}` is not a picture that can be read (truncated, or no picture): ", str(caught.value)
    assert reason.startswith(start)
    assert len(reason) > len(start)
    assert path.name not in reason.removeprefix(start)
    return reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_files_are_refused_with_their_path(tmp_path: Path, kind: str):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert_refused_once(path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_pictures_are_refused_with_their_path(tmp_path: Path, content: bytes):
    (tmp_path / "notes.jpg").write_bytes(content)
    assert_refused_once(tmp_path / "notes.jpg")


def test_missing_files_folders_and_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FileNotFoundError):
        load_photograph(tmp_path / "nothing.png")
    assert assert_refused_once(tmp_path).endswith("Is a directory")
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png` is too large a picture: .*10000 pixels"):
        load_photograph(tmp_path / "bomb.png")
