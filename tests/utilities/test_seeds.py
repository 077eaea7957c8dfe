"""Generators are restored after a seeded block."""

import random
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from vit_interactions.training.data.sampling import SeededDataset, TrainingBatchSampler
from vit_interactions.utilities.seeds import seeded


class Draws(Dataset[tuple[float, float, float]]):
    """One random number of each generator per sample."""

    def __getitem__(self, index: int) -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    def __len__(self) -> int:
        return 6


def test_generators_are_restored() -> None:
    def draw() -> tuple[float, float, float]:
        return Draws()[0]

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = [draw(), draw()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    first = draw()
    with seeded(9):
        draw()
    assert [first, draw()] == expected
