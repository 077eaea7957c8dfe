"""Stop requests by signals, obeyed between two steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """A signal handler that remembers the first signal.

    Attributes:
        signal: number of the signal; 0 if none came.
    """

    def __init__(self) -> None:
        """Start without a signal."""
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; end the process at a second Ctrl-C."""
        # SIGTERM may come twice, from the scheduler to all processes of the job and from torchrun to its own.
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def agreed(self, device: torch.device) -> int:
        """Return the signal that any process received, the same in all of them; 0 if none did."""
        if not distributed.is_initialized():
            return self.signal
        # A signal reaches the processes at different steps; all have to stop after the same one.
        asked = torch.tensor(self.signal, device=device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return int(asked)


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Catch SIGTERM and SIGINT for the duration of the block; on exit, restore the handlers."""
    listener = Interruption()
    before = {number: signal.signal(number, listener) for number in SIGNALS}
    try:
        yield listener
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """Ignore SIGINT, and SIGTERM unless the parent sends it; a loader's `worker_init_fn`.

    A scheduler signals all processes of a job, but the parent decides when to stop. Where the sender is unknown
    (no `sigwaitinfo`, as on macOS), SIGTERM keeps the handler that torch set.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    # At exit, Python sends SIGTERM to the workers that still run, and waits for them without a limit.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
