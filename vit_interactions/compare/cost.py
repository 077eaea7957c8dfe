"""What a call costs: its time, that of a forward pass beside it, and the memory it needs beyond what is held."""

import contextlib
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from vit_interactions.utilities.processes import synchronize

Result = TypeVar("Result")

MEGABYTE = 1e6
# Metric -> what it is; less is better in all.
COSTS = {
    "seconds": "time of the map",
    "forwards": "time of the map, divided by that of a forward pass taken just before",
    "peak_memory": "MB at most beyond what was held before; on the CPU of the whole process, and at least, since "
    "memory that was free already is taken first",
}


@dataclass(frozen=True)
class Measured(Generic[Result]):
    """A result and what it cost.

    Attributes:
        result: of the call.
        seconds: it took.
        peak: bytes at most beyond what was held before; None where this cannot be told.
    """

    result: Result
    seconds: float
    peak: int | None


def measured(call: Callable[[], Result], device: torch.device) -> Measured[Result]:
    """Make a call and measure it, until the device has done all of it.

    On mps the peak is None: torch says what is held there at a moment, but keeps no peak.

    Example:
        >>> measured(lambda: 1 + 1, torch.device("cpu")).result
        2
    """
    before = _start(device)
    started = time.perf_counter()
    result = call()
    synchronize(device)
    seconds = time.perf_counter() - started
    peak = _peak(device)
    return Measured(result, seconds, None if before is None or peak is None else max(0, peak - before))


def _start(device: torch.device) -> int | None:
    """Let the peak begin anew, and return the bytes that are held; None where the system does not tell."""
    synchronize(device)
    if device.type == "mps":
        return None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError, AttributeError):  # memory that is free already would hide what a call needs
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return None


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        return _status("VmHWM")
    return None


def _status(name: str) -> int:
    """Read a memory figure of this process in bytes."""
    status = Path("/proc/self/status").read_text().split(f"{name}:")[1]
    return int(status.split()[0]) * 1024
