"""Cost of a call: its run time and its peak memory."""

import contextlib
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from vit_interactions.utilities.processes import synchronize

Returned = TypeVar("Returned")

MEGABYTE = 1e6
# Metric -> description; lower is better for all.
COSTS = {
    "seconds": "time of the map",
    "forwards": "time of the map, divided by that of a forward pass taken just before",
    "peak_memory": "peak MB in addition to the memory already allocated; on the CPU that of the whole process, and "
    "a lower bound, because free memory of the process is used first",
}


@dataclass(frozen=True)
class Measured(Generic[Returned]):
    """A result and its cost.

    Attributes:
        result: of the call.
        seconds: run time.
        peak: peak bytes beyond what was allocated before; None if unknown.
    """

    result: Returned
    seconds: float
    peak: int | None


def measured(call: Callable[[], Returned], device: torch.device) -> Measured[Returned]:
    """Make a call and measure it, including all its work on the device.

    On MPS the peak is None, because torch does not record it there.

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
    """Reset the peak, and return the allocated bytes; None if the system does not report them."""
    synchronize(device)
    if device.type == "mps":
        return None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError, AttributeError):  # free memory of the process would hide what a call needs
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
