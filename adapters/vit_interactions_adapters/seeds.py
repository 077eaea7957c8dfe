"""Random numbers that are the same at every call, and leave the caller's as they were."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch and numpy for the block and give their states back, also after an exception.

    Example:
        >>> with seeded(0):
        ...     first = np.random.uniform()
        >>> with seeded(0):
        ...     first == np.random.uniform()
        True
    """
    state = np.random.get_state()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
        finally:
            np.random.set_state(state)
