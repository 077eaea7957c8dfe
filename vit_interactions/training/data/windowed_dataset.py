"""Pictures to train on together with their stored windows, cropped and mirrored as the pictures are."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data.loader import fast_collate
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from vit_interactions.functional.responsive_field import ResponsiveField, field_from_windows
from vit_interactions.functional.window_transform import transform_field
from vit_interactions.training.data.images import image_names, read_sample
from vit_interactions.training.data.tracked_transform import TrackedTransform
from vit_interactions.training.data.window_store import WindowStore


class Windowed(NamedTuple):
    """One picture.

    Attributes:
        image: as the transform made it.
        target: as the dataset gives it.
        windows: (patches, 4) uint8: left, top, right, bottom, inclusive, on the grid of `image`.
        dropped: (patches,) bool.
    """

    image: Any
    target: Any
    windows: Tensor
    dropped: Tensor


class WindowedTarget(NamedTuple):
    """What a batch is to be learned by.

    Attributes:
        classes: (batch,), or whatever the dataset's targets collate to.
        windows: (batch, patches, 4) uint8.
        dropped: (batch, patches) bool.
        grid: (rows, cols) of the patches.
    """

    classes: Tensor
    windows: Tensor
    dropped: Tensor
    grid: tuple[int, int]

    def to(self, device: Any, non_blocking: bool = False) -> "WindowedTarget":
        """Copy to a device, as a tensor's `to` does."""
        classes, windows, dropped = (part.to(device=device, non_blocking=non_blocking) for part in self[:3])
        return WindowedTarget(classes, windows, dropped, self.grid)

    @property
    def field(self) -> ResponsiveField:
        """The responsive fields of the batch; their `mask` is the target of WinfT's windows."""
        return field_from_windows(self.windows.long(), self.dropped, self.grid)


class WindowedDataset(Dataset[Windowed]):
    """A dataset of timm or torchvision with the windows of a store.

    timm's loaders set `transform`. An image that cannot be read, now or when the store was made, raises an error; no
    other image takes its place. For loaders that do not expect that, take a `torch.utils.data.Subset` of the images for
    which `store.is_readable`.

    Attributes:
        dataset: the pictures.
        store: their windows.
    """

    def __init__(self, dataset: Any, store: WindowStore, transform: Callable[[Any], Any] | None = None) -> None:
        """Put pictures and windows together.

        Args:
            dataset: indexed by picture, without a transform of its own.
            store: made of the same dataset.
            transform: what `TrackedTransform` takes; None leaves pictures as they are.

        Raises:
            ValueError: a store of other pictures, a dataset with a transform, or one that is a stream.
        """
        store.check_names(image_names(dataset))
        self.dataset, self.store = dataset, store
        self.transform = transform

    @property
    def transform(self) -> Callable[[Any], Any] | None:
        """What is done to the pictures, and to their windows."""
        return None if self._followed is None else self._followed.transform

    @transform.setter
    def transform(self, transform: Callable[[Any], Any] | None) -> None:
        self._followed = None if transform is None else TrackedTransform(transform)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Windowed:
        """Return an image with its windows.

        Raises:
            ValueError: the image cannot be read, or could not when the store was made.
        """
        image, target = read_sample(self.dataset, index)
        windows, dropped = self.store[index]
        if self._followed is not None:
            image, box, flip = self._followed(image)
            windows, dropped = transform_field(windows, dropped, self.store.manifest.grid, box, flip)
        return Windowed(image, target, windows, dropped)

    def collate(self, batch: Sequence[Windowed]) -> tuple[Tensor, WindowedTarget]:
        """Make a batch for timm's `PrefetchLoader`: images as bytes, as timm's `fast_collate` makes them."""
        images, _ = fast_collate([(one.image, 0) for one in batch])  # type: ignore[no-untyped-call]
        classes, windows, dropped = default_collate([tuple(one[1:]) for one in batch])
        return images, WindowedTarget(classes, windows, dropped, self.store.manifest.grid)

    def blank(self) -> Windowed:
        """Make a sample that stands in a batch without a readable image."""
        image = Image.new("RGB", (8, 8))
        rows, cols = self.store.manifest.grid
        whole = torch.tensor([0, 0, cols - 1, rows - 1], dtype=torch.uint8).expand(rows * cols, 4)
        dropped = torch.zeros(rows * cols, dtype=torch.bool)
        return Windowed(image if self._followed is None else self._followed(image).image, 0, whole, dropped)
