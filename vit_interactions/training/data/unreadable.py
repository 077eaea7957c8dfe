"""Skip unreadable images in batches, and keep their names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vit_interactions.loading.class_maps import abbreviate
from vit_interactions.training.data.folders import natural_key
from vit_interactions.training.data.images import image_name, read_sample
from vit_interactions.utilities.text import describe_error


class Unreadable(NamedTuple):
    """Name and error of an unreadable image, instead of its sample."""

    name: str
    reason: str


class TransformedImages(Dataset[Any]):
    """A dataset with a transform, which raises an error for an unreadable image."""

    def __init__(self, dataset: Any, transform: Callable[[Any], Any]) -> None:
        """Combine a timm or torchvision dataset without a transform, and a transform."""
        self.dataset, self._transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = read_sample(self.dataset, index)
        return self._transform(image), target

    def blank(self) -> tuple[Any, Any]:
        """Return the sample of a black image, for a batch without a readable one."""
        return self._transform(Image.new("RGB", (8, 8))), 0


class TolerantDataset(Dataset[Any]):
    """A dataset that returns an `Unreadable` for an unreadable image."""

    def __init__(self, samples: Any) -> None:
        """Wrap `TransformedImages` or a `WindowedDataset`, which raise errors."""
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.samples[index]
        # Decoders of broken files raise nearly anything: SyntaxError, struct.error, MemoryError, ...
        except Exception as error:
            return Unreadable(image_name(self.samples.dataset, index), describe_error(error))


class BatchTarget(NamedTuple):
    """The target of a batch without its unreadable images; if none was readable, the target of a blank image.

    Attributes:
        target: of the batch.
        read: number of readable images.
        unreadable: the others.
    """

    target: Any
    read: int
    unreadable: Sequence[Unreadable]

    def to(self, device: Any, non_blocking: bool = False) -> "BatchTarget":
        """Copy the target to a device, as a tensor's `to` does."""
        return self._replace(target=self.target.to(device=device, non_blocking=non_blocking))


def tolerant_collate(
    collate: Callable[[Any], tuple[Tensor, Any]], blank: Callable[[], Any], batch: Sequence[Any]
) -> tuple[Tensor, BatchTarget]:
    """Collate the readable samples of a batch; if there are none, a blank sample."""
    read = [sample for sample in batch if not isinstance(sample, Unreadable)]
    unreadable = [sample for sample in batch if isinstance(sample, Unreadable)]
    images, target = collate(read or [blank()])
    return images, BatchTarget(target, len(read), unreadable)


def merge_unreadable(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Merge the unreadable images of several processes, sorted by name.

    Example:
        >>> merge_unreadable([{"ant/10.png": "empty"}, {"ant/2.png": "truncated"}])
        {'ant/2.png': 'truncated', 'ant/10.png': 'empty'}
    """
    every = {name: reason for part in parts for name, reason in part.items()}
    return {name: every[name] for name in sorted(every, key=natural_key)}


def skipped_files(dataset: Any) -> list[str]:
    """Return a note on the files of a dataset that are not images, if there are any."""
    others = getattr(dataset, "others", [])
    return [f"skipped {len(others):,} files that are not images: {abbreviate(others)}"] if others else []


def describe_unreadable(unreadable: Mapping[str, str]) -> str:
    """Count and name unreadable images.

    Example:
        >>> describe_unreadable({"ant/2.png": "truncated", "ant/10.png": "empty"})
        '2 could not be read: ant/2.png, ant/10.png'
    """
    return f"{len(unreadable):,} could not be read: {abbreviate(list(unreadable), shown=10)}"
