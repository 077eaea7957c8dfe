"""Random numbers as a function of where they are drawn, so that nothing of them has to be kept."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# What the numbers are for: the first number of a seed, so that no two purposes share one.
ORDER, SAMPLE, STEP = 0, 1, 2
_SEEDED = threading.RLock()


def seed_of(*numbers: int) -> int:
    """Mix whole numbers ≥ 0 into one seed in [0, 2^63), by numpy's SeedSequence.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int) -> None:
    """Set the generators of Python, numpy and torch, on all its devices, to a seed in [0, 2^63)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from generators of this seed inside, on the CPU; outside they go on as if nothing had been drawn.

    The generators belong to the process. One thread at a time is inside; what others draw meanwhile is seeded too.

    Example:
        >>> with seeded(7):
        ...     first = torch.rand(1)
        >>> _ = torch.rand(3)
        >>> with seeded(7):
        ...     print(torch.rand(1) == first)
        tensor([True])
    """
    with _SEEDED, _restored():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _restored() -> Iterator[None]:
    python, numbers, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(tensors)
