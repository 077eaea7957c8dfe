"""Random numbers as a function of a seed, so that no generator state has to be stored."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# First number of a seed: what it is for, so that no two purposes share a seed.
ORDER, SAMPLE, STEP = 0, 1, 2
_LOCK = threading.RLock()


def seed_of(*numbers: int) -> int:
    """Mix integers ≥ 0 into one seed in [0, 2^63) with numpy's SeedSequence.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices with a seed in [0, 2^63)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch for the duration of the block; their previous states are restored.

    Generators are global to the process: only one thread at a time enters the block, and numbers that other threads
    draw meanwhile are seeded too.

    Example:
        >>> with seeded(7):
        ...     first = torch.rand(1)
        >>> _ = torch.rand(3)
        >>> with seeded(7):
        ...     print(torch.rand(1) == first)
        tensor([True])
    """
    with _LOCK:
        python, numbers, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
        # Before CUDA starts it has no state to restore, and a seed would be queued until it starts.
        started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if started else []
        mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed_all(seed)
            if mps is not None:
                torch.mps.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
            torch.set_rng_state(tensors)
            torch.cuda.set_rng_state_all(cuda)
            if mps is not None:
                torch.mps.set_rng_state(mps)
