"""A request to stop that is granted between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether this process was asked to stop, and by which signal.

    Attributes:
        signal: number of the signal that came first; 0 as long as none did.
    """

    def __init__(self) -> None:
        """Start without a request."""
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; a second Ctrl-C ends the process at once."""
        # Schedulers send SIGTERM to every process of a job, and torchrun once more to each of its own.
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def agreed(self, device: torch.device) -> int:
        """Return the signal that any process of the training got, the same number in all of them; 0 if none did."""
        if not distributed.is_initialized():
            return self.signal
        # A signal reaches the processes at different steps; all have to stop after the same one.
        asked = torch.tensor(self.signal, device=device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return int(asked)


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Listen to SIGTERM and SIGINT inside; afterwards they mean what they meant before."""
    listener = Interruption()
    before = {number: signal.signal(number, listener) for number in SIGNALS}
    try:
        yield listener
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """Leave it to the parent to end this process: a loader's `worker_init_fn`."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
