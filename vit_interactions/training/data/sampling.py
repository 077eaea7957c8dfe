"""The order of the training pictures and what is done to each, as a function of seed, epoch and picture.

Nothing depends on the number of worker processes, on what was drawn before, or on where the run was started: to resume
in the middle of an epoch is to start there.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from vit_interactions.utilities.seeds import ORDER, SAMPLE, seed_of, seeded


class TrainingBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, picture) of one process, from any step of an epoch on.

    A step is `parts` batches in each of `world` processes. Together they are the same pictures however a step is
    divided. What is left at the end of an epoch, less than a step, is not used.

    Attributes:
        epoch: the epoch that the next iteration gives.
        first_step: the step in it that the next iteration starts with.
        steps: steps in an epoch.

    Example:
        >>> batches = TrainingBatchSampler(7, batch=1, parts=2, rank=1, world=2)
        >>> batches.steps, len(list(batches))
        (1, 2)
    """

    def __init__(
        self, pictures: int, batch: int, *, parts: int = 1, rank: int = 0, world: int = 1, seed: int = 0
    ) -> None:
        """Take the number of pictures, and how a step is divided.

        Raises:
            ValueError: fewer pictures than one step takes.
        """
        if pictures < batch * parts * world:
            raise ValueError(
                f"`batch_size` must be at most the number of training pictures, {pictures}, but got "
                f"{batch * parts * world}."
            )
        self.pictures, self.batch, self.parts, self.rank, self.world = pictures, batch, parts, rank, world
        self.seed = seed
        self.epoch = self.first_step = 0
        self.steps = pictures // (batch * parts * world)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(seed_of(ORDER, self.seed, self.epoch))
        order = torch.randperm(self.pictures, generator=generator, device=generator.device)
        epoch = self.epoch
        for part in range(self.first_step * self.parts, self.steps * self.parts):
            start = (part * self.world + self.rank) * self.batch
            yield [(epoch, index) for index in order[start : start + self.batch].tolist()]


class SeededDataset(Dataset[Any]):
    """A dataset whose random augmentation is a function of (seed, epoch, picture).

    Example:
        >>> class Noise(Dataset):
        ...     def __getitem__(self, index):
        ...         return index, torch.rand(1)
        >>> noise = SeededDataset(Noise(), seed=0)
        >>> noise[0, 5] == noise[0, 5], noise[0, 5] == noise[1, 5]
        (True, False)
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        """Take a dataset that is indexed by picture."""
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Return the picture of `key` = (epoch, index) as the dataset gives it under the seed of both."""
        epoch, index = key
        with seeded(seed_of(SAMPLE, self.seed, epoch, index)):
            return self.dataset[index]
