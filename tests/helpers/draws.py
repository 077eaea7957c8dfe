"""A data set of random numbers."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset


class Draws(Dataset[tuple[float, float, float]]):
    """One random number of each generator per sample."""

    def __getitem__(self, index: int) -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    def __len__(self) -> int:
        return 6
