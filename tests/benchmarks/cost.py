"""Measure alternating run times, and the peak memory of one call in a separate process."""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def seconds_in_turn(runs: Mapping[str, Callable[[], object]], device: str, rounds: int) -> dict[str, list[float]]:
    """Time each run once per round, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for counted in range(-1, rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if counted >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def peak(run: Callable[[], object], device: str) -> float:
    """Measure the peak memory of one call in GB beyond the current use; valid only once per process."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e9
    ctypes.CDLL(None).malloc_trim(0)  # else the call would reuse freed memory that is still counted as in use
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1e9


def resident(field: str) -> int:
    """Read a memory figure of this process in bytes (Linux)."""
    status = Path("/proc/self/status").read_text().split(field + ":")[1]
    return int(status.split()[0]) * 1024
