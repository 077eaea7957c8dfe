"""Training images with their stored windows, which follow crops and flips."""

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


class WindowedSample(NamedTuple):
    """An image with its windows.

    Attributes:
        image: after the transform.
        target: from the dataset.
        windows: (patches, 4) uint8: left, top, right and bottom, inclusive, on the grid of `image`.
        dropped: (patches,) bool.
    """

    image: Any
    target: Any
    windows: Tensor
    dropped: Tensor


class WindowedTarget(NamedTuple):
    """The targets of a batch.

    Attributes:
        classes: (batch,), or whatever the dataset's targets collate to.
        windows: (batch, patches, 4) uint8.
        dropped: (batch, patches) bool.
        grid: (rows, cols) of patches.
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


class WindowedDataset(Dataset[WindowedSample]):
    """A timm or torchvision dataset with the windows of a store.

    timm's loaders set `transform`. An image that is unreadable, now or when the store was built, raises an error; no
    other image takes its place. For loaders that do not expect this, use a `torch.utils.data.Subset` of the images for
    which `store.is_readable` returns True.

    Attributes:
        dataset: the images.
        store: their windows.
    """

    def __init__(self, dataset: Any, store: WindowStore, transform: Callable[[Any], Any] | None = None) -> None:
        """Combine images and windows.

        Args:
            dataset: indexed by image, without its own transform.
            store: built from the same dataset.
            transform: a transform that `TrackedTransform` supports; None for the images as they are.

        Raises:
            ValueError: a store of other images, a dataset with a transform, or a stream.
        """
        store.check_names(image_names(dataset))
        self.dataset, self.store = dataset, store
        self.transform = transform

    @property
    def transform(self) -> Callable[[Any], Any] | None:
        """The transform of the images and their windows."""
        return None if self._tracked is None else self._tracked.transform

    @transform.setter
    def transform(self, transform: Callable[[Any], Any] | None) -> None:
        self._tracked = None if transform is None else TrackedTransform(transform)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> WindowedSample:
        """Return an image with its windows.

        Raises:
            ValueError: an image that is unreadable, or was when the store was built.
        """
        image, target = read_sample(self.dataset, index)
        windows, dropped = self.store[index]
        if self._tracked is not None:
            image, box, flip = self._tracked(image)
            windows, dropped = transform_field(windows, dropped, self.store.manifest.grid, box, flip)
        return WindowedSample(image, target, windows, dropped)

    def collate(self, batch: Sequence[WindowedSample]) -> tuple[Tensor, WindowedTarget]:
        """Collate samples for timm's `PrefetchLoader`, images as bytes as in timm's `fast_collate`."""
        images, _ = fast_collate([(one.image, 0) for one in batch])  # type: ignore[no-untyped-call]
        classes, windows, dropped = default_collate([tuple(one[1:]) for one in batch])
        return images, WindowedTarget(classes, windows, dropped, self.store.manifest.grid)

    def blank(self) -> WindowedSample:
        """Return the sample of a black image, for a batch without a readable one."""
        image = Image.new("RGB", (8, 8))
        rows, cols = self.store.manifest.grid
        whole = torch.tensor([0, 0, cols - 1, rows - 1], dtype=torch.uint8).expand(rows * cols, 4)
        dropped = torch.zeros(rows * cols, dtype=torch.bool)
        return WindowedSample(image if self._tracked is None else self._tracked(image).image, 0, whole, dropped)
