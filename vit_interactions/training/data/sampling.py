"""Batches of indices for training and evaluation, and datasets with reproducible augmentation.

The order of the images and their augmentation are a function of seed, epoch and image. They do not depend on the number
of worker processes, on random numbers drawn before, or on where the run was started: a run that resumes in the middle
of an epoch simply starts there.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from vit_interactions.utilities.seeds import ORDER, SAMPLE, seed_of, seeded


class TrainingBatchSampler(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of (epoch, index) for one process, from any step of an epoch on.

    A step consists of `parts` batches in each of `world` processes, and contains the same images however it is divided.
    Images that do not fill a step at the end of an epoch are dropped.

    Attributes:
        epoch: epoch of the next iteration.
        first_step: first step of the next iteration.
        steps: steps per epoch.

    Example:
        >>> batches = TrainingBatchSampler(7, batch=1, parts=2, rank=1, world=2)
        >>> batches.steps, len(list(batches))
        (1, 2)
    """

    def __init__(
        self, images: int, batch: int, *, parts: int = 1, rank: int = 0, world: int = 1, seed: int = 0
    ) -> None:
        """Divide a number of images into batches.

        Raises:
            ValueError: fewer images than one step takes.
        """
        step = batch * parts * world
        if images < step:
            raise ValueError(f"`batch_size` must be at most the number of training images, {images}, got {step}.")
        self._images, self._batch, self._parts, self._rank, self._world = images, batch, parts, rank, world
        self._seed = seed
        self.epoch = self.first_step = 0
        self.steps = images // step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self._parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(seed_of(ORDER, self._seed, self.epoch))
        order = torch.randperm(self._images, generator=generator, device=generator.device)
        epoch = self.epoch
        for part in range(self.first_step * self._parts, self.steps * self._parts):
            start = (part * self._world + self._rank) * self._batch
            yield [(epoch, index) for index in order[start : start + self._batch].tolist()]


def evaluation_batches(images: int, batch: int, rank: int = 0, world: int = 1) -> list[range]:
    """Return the batches of indices of one process: each image once, and as many batches in each process.

    Example:
        >>> [[list(batch) for batch in evaluation_batches(5, 2, rank, 2)] for rank in (0, 1)]
        [[[0, 2], [4]], [[1, 3], []]]
    """
    mine, count = range(images)[rank::world], -(-images // (world * batch))
    return [mine[number * batch : (number + 1) * batch] for number in range(count)]


class SeededDataset(Dataset[Any]):
    """A dataset whose random augmentation is a function of (seed, epoch, index).

    Example:
        >>> class Noise(Dataset):
        ...     def __getitem__(self, index):
        ...         return index, torch.rand(1)
        >>> noise = SeededDataset(Noise(), seed=0)
        >>> noise[0, 5] == noise[0, 5], noise[0, 5] == noise[1, 5]
        (True, False)
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        """Wrap a dataset."""
        self.dataset, self._seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Return the sample at `key` = (epoch, index)."""
        epoch, index = key
        with seeded(seed_of(SAMPLE, self._seed, epoch, index)):
            return self.dataset[index]
