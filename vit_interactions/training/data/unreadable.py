"""Batches of the images that can be read, with the names of those that cannot."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vit_interactions.training.data.class_names import abbreviate
from vit_interactions.training.data.folders import natural_key
from vit_interactions.training.data.images import image_name, read_sample

NAMED = 10  # unreadable images that are named


class Unreadable(NamedTuple):
    """An image that could not be read, in place of a sample.

    Attributes:
        name: of the image.
        reason: the error.
    """

    name: str
    reason: str


class TransformedImages(Dataset[Any]):
    """A dataset's images under a transform, each read by its number.

    Attributes:
        dataset: of timm or torchvision, without a transform.
    """

    def __init__(self, dataset: Any, transform: Callable[[Any], Any]) -> None:
        """Take a dataset and a transform."""
        self.dataset, self._transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = read_sample(self.dataset, index)
        return self._transform(image), target

    def blank(self) -> tuple[Any, Any]:
        """Make a sample that stands in a batch without a readable image."""
        return self._transform(Image.new("RGB", (8, 8))), 0


class TolerantDataset(Dataset[Any]):
    """A dataset that gives an `Unreadable` in place of an image that cannot be read.

    Attributes:
        samples: `TransformedImages` or a `WindowedDataset`.
    """

    def __init__(self, samples: Any) -> None:
        """Take a dataset that raises an error for an image that cannot be read."""
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.samples[index]
        # Decoders of broken files raise nearly anything: SyntaxError, struct.error, MemoryError, ...
        except Exception as error:
            return Unreadable(image_name(self.samples.dataset, index), str(error) or type(error).__name__)


class BatchTarget(NamedTuple):
    """The target of a batch, with what came of its images; a batch without a readable image has a blank one.

    Attributes:
        target: of the batch.
        kept: number of the batch's images that could be read.
        failed: those that could not.
    """

    target: Any
    kept: int
    failed: Sequence[Unreadable]

    def to(self, device: Any, non_blocking: bool = False) -> "BatchTarget":
        """Copy the target to a device, as a tensor's `to` does."""
        return self._replace(target=self.target.to(device=device, non_blocking=non_blocking))


class TolerantCollate:
    """Make a batch of the images that could be read."""

    def __init__(self, collate: Callable[[Any], tuple[Tensor, Any]], blank: Callable[[], Any]) -> None:
        """Take a function that makes a batch of samples, and one that makes a blank sample."""
        self._collate, self._blank = collate, blank

    def __call__(self, batch: Sequence[Any]) -> tuple[Tensor, BatchTarget]:
        """Make a batch of samples and `Unreadable`s."""
        read = [sample for sample in batch if not isinstance(sample, Unreadable)]
        failed = [sample for sample in batch if isinstance(sample, Unreadable)]
        images, target = self._collate(read or [self._blank()])
        return images, BatchTarget(target, len(read), failed)


class EvaluationBatchSampler(Sampler[list[int]]):
    """One process's batches of images in order: each image once, and as many batches in each process.

    Example:
        >>> [list(EvaluationBatchSampler(5, 2, rank, 2)) for rank in (0, 1)]
        [[[0, 2], [4]], [[1, 3], []]]
    """

    def __init__(self, images: int, batch: int, rank: int = 0, world: int = 1) -> None:
        """Take the number of images, the size of a batch, and this process's place."""
        self._mine, self._batch = range(images)[rank::world], batch
        self._count = -(-images // (world * batch))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._count):
            yield list(self._mine[number * self._batch : (number + 1) * self._batch])


def merge_unreadable(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Put together what processes could not read, in the order of names.

    Example:
        >>> merge_unreadable([{"ant/10.png": "empty"}, {"ant/2.png": "truncated"}])
        {'ant/2.png': 'truncated', 'ant/10.png': 'empty'}
    """
    every = {name: reason for part in parts for name, reason in part.items()}
    return {name: every[name] for name in sorted(every, key=natural_key)}


def notes_on(dataset: Any) -> list[str]:
    """Say which files of a dataset are not used, for the user."""
    others = getattr(dataset, "others", [])
    return [f"skipped {len(others):,} files that are not images: {abbreviate(others)}"] if others else []


def describe_unreadable(unreadable: Mapping[str, str]) -> str:
    """Name images that could not be read.

    Example:
        >>> describe_unreadable({"ant/2.png": "truncated", "ant/10.png": "empty"})
        '2 could not be read: ant/2.png, ant/10.png'
    """
    return f"{len(unreadable):,} could not be read: {abbreviate(list(unreadable), NAMED)}"
