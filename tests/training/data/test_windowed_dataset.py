"""Images with stored windows, which follow each crop with the same random numbers as timm's transform."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, create_transform
from timm.data.loader import PrefetchLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

from vit_interactions.functional.responsive_field import ResponsiveField, field_from_windows
from vit_interactions.training.data.build_store import build_window_store
from vit_interactions.training.data.window_store import WindowStore
from vit_interactions.training.data.windowed_dataset import WindowedDataset

GRID = (4, 4)
SIZE = 64
READABLE = [0, 2, 3, 4]  # images of `dataset`


class Corners(nn.Module):
    """A fake teacher whose windows identify the image: from each patch to a corner chosen by the red channel."""

    alpha, beta, coverage, exclude_sinks = 0.1, 0.2, 1.0, False

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Conv2d(3, 1, 1)
        self.model.pretrained_cfg = {"input_size": (3, SIZE, SIZE), "mean": (0.0,) * 3, "std": (1.0,) * 3}
        self.model.pretrained_cfg |= {"interpolation": "nearest", "crop_pct": 1.0}

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return GRID

    def forward(self, images: Tensor) -> ResponsiveField:
        patch = torch.arange(16)
        corner = (images[:, 0].mean((1, 2)) * 4).long().clamp(0, 3)[:, None]
        x, y = patch % 4, patch // 4
        right, down = corner % 2, corner // 2
        bounds = (x * right, y * down, torch.where(right > 0, 3, x), torch.where(down > 0, 3, y))
        dropped = patch == 5 + 0 * corner
        return field_from_windows(torch.stack(torch.broadcast_tensors(*bounds), -1), dropped, GRID)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images whose red encodes x and whose green encodes y; the third is unreadable."""
    root = tmp_path_factory.mktemp("images")
    for index, (height, width) in enumerate([(100, 100), (80, 120), (90, 70), (64, 64), (130, 90)]):
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([255 * (x + 0.5) / width, 255 * (y + 0.5) / height, 0 * x + 50 * index], -1)
        path = root / "train" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (root / "train" / "a" / "2.png").write_bytes(b"no image")
    return root


@pytest.fixture
def dataset(folder: Path) -> Any:
    return create_dataset("", root=str(folder), split="train")


@pytest.fixture
def store(dataset: Any, tmp_path: Path) -> WindowStore:
    for _ in build_window_store(dataset, Corners(), tmp_path, workers=0):  # type: ignore[arg-type]
        pass
    return WindowStore(tmp_path)


def seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def test_images_come_with_their_windows(dataset: Any, store: WindowStore) -> None:
    image_folder = WindowedDataset(dataset, store)
    assert len(image_folder) == 5
    image, target, windows, dropped = image_folder[3]
    assert image.size == (120, 80)
    assert target == 1
    assert torch.equal(windows, store[3][0])
    assert torch.equal(dropped, store[3][1])


def test_windows_follow_the_crop(dataset: Any, store: WindowStore) -> None:
    transform = create_transform(SIZE, is_training=True, color_jitter=None, use_prefetcher=True)
    image_folder, compared = WindowedDataset(dataset, store, transform), 0
    for value in range(60):
        seed(value)
        image, _, windows, dropped = image_folder[0]
        # The patch of the original image under the center of each patch, read from the pixels.
        x, y = (image[channel].float().view(4, 16, 4, 16)[:, 7:9, :, 7:9].mean((1, 3)) / 255 for channel in (0, 1))
        source = ((y * 4).long().clamp(max=3) * 4 + (x * 4).long().clamp(max=3)).flatten()
        near_a_border = ((x * 4 % 1 - 0.5).abs().max() > 0.45) or ((y * 4 % 1 - 0.5).abs().max() > 0.45)
        if near_a_border:
            continue
        whole = field_from_windows(store[0][0][None], store[0][1][None], GRID)
        cut = field_from_windows(windows[None], torch.zeros(1, 16, dtype=torch.bool), GRID)
        expected = field_from_windows(store[0][0][None], torch.zeros(1, 16, dtype=torch.bool), GRID).mask[0]
        assert torch.equal(cut.mask[0], expected[source][:, source])
        assert torch.equal(dropped, whole.dropped[0, source])
        compared += 1
    assert compared > 10


def test_an_image_without_windows_is_not_replaced(dataset: Any, store: WindowStore, folder: Path) -> None:
    image_folder = WindowedDataset(dataset, store)
    broken = store.names.index("a/2.png")
    assert not store.is_readable(broken)
    with pytest.raises(ValueError, match=r"a/2.png.* is not an image that can be read"):
        image_folder[broken]
    path, before = folder / "train" / "a" / "2.png", (folder / "train" / "a" / "2.png").read_bytes()
    path.write_bytes((folder / "train" / "b" / "1.png").read_bytes())  # readable now, but still without windows
    try:
        with pytest.raises(ValueError, match=r"a/2.png\) has no windows: it could not be read when the store"):
            image_folder[broken]
    finally:
        path.write_bytes(before)


def test_mismatched_store_and_dataset_raise(dataset: Any, store: WindowStore, folder: Path) -> None:
    other = create_dataset("", root=str(folder / "train"), split="train", class_map={"b": 0})
    with pytest.raises(ValueError, match=r"got 5 in .* and 2 in the dataset"):
        WindowedDataset(other, store)
    dataset.transform = transforms.ToTensor()
    with pytest.raises(ValueError, match="`dataset` must come without its own transform"):
        WindowedDataset(dataset, store)


def test_in_timms_loader(dataset: Any, store: WindowStore) -> None:
    image_folder = WindowedDataset(dataset, store)
    image_folder.transform = create_transform(SIZE, is_training=True)
    loader = create_loader(
        Subset(image_folder, READABLE),
        SIZE,
        2,
        is_training=True,
        num_workers=0,
        use_prefetcher=False,
        persistent_workers=False,
    )
    images, classes, windows, dropped = next(iter(loader))
    assert (images.shape, classes.shape) == ((2, 3, SIZE, SIZE), (2,))
    assert (windows.shape, windows.dtype) == ((2, 16, 4), torch.uint8)
    assert (dropped.shape, dropped.dtype) == ((2, 16), torch.bool)


def test_in_timms_prefetching_loader_with_workers(dataset: Any, store: WindowStore) -> None:
    transform = create_transform(SIZE, is_training=True, color_jitter=None, use_prefetcher=True)
    image_folder = WindowedDataset(dataset, store, transform)
    assert pickle.loads(pickle.dumps(image_folder))[0].windows.shape == (16, 4)
    workers = DataLoader(Subset(image_folder, READABLE), 2, num_workers=1, collate_fn=image_folder.collate)
    images, target = next(iter(PrefetchLoader(workers, device=torch.device("cpu"))))
    assert (images.shape, images.dtype) == ((2, 3, SIZE, SIZE), torch.float32)
    assert target.classes.tolist() == [0, 0]
    assert target.field.grid == GRID
    assert target.field.mask.shape == (2, 16, 16)
    assert target.field.windows.dtype == torch.int64
