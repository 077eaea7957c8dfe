"""The rank and device of this process among those that torchrun or Slurm started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
from timm.utils import init_distributed_device
from torch import distributed

from vit_interactions.utilities.checks import check_device

PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Process:
    """One process of a distributed run.

    Attributes:
        device: the device it computes on.
        rank: its number, from 0.
        world: number of processes.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0


@contextmanager
def process_group(device: str) -> Iterator[Process]:
    """Join the process group for the duration of the block; on exit, wait for all ranks.

    A process group that the caller has already initialized is used, and kept.

    Args:
        device: auto, cpu, cuda, ...; with several processes, each takes the GPU of its local rank.

    Raises:
        ValueError: no such device.

    Example:
        >>> with process_group("cpu") as process:
        ...     process.first
        True
    """
    initialized = distributed.is_initialized()
    name = check_device("device", device)
    if initialized:
        process = Process(torch.device(name), distributed.get_rank(), distributed.get_world_size())
    else:
        place = SimpleNamespace(device=name)
        init_distributed_device(place)  # type: ignore[no-untyped-call]
        process = Process(torch.device(check_device("device", str(place.device))), place.rank, place.world_size)
    try:
        # A barrier of the default group would time out after minutes.
        patient: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if process.world > 1 else None
        yield process
        if patient is not None:
            distributed.barrier(patient)
    finally:
        if distributed.is_initialized() and not initialized:
            distributed.destroy_process_group()


def independent_process(device: str) -> Process:
    """Read rank and device from the variables that torchrun sets, without joining the process group.

    Raises:
        ValueError: no such device.

    Example:
        >>> independent_process("cpu").world
        1
    """
    name, local_rank = check_device("device", device), os.environ.get("LOCAL_RANK")
    if name == "cuda" and local_rank is not None:
        name = check_device("device", f"cuda:{local_rank}")
    return Process(torch.device(name), int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def all_gather(value: Any) -> list[Any]:
    """Return the values of all processes, by rank.

    Example:
        >>> all_gather(3)
        [3]
    """
    if not distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, value)
    return gathered


def broadcast(value: Any) -> Any:
    """Return the first process's value in every process, once all have called this.

    Example:
        >>> broadcast(3)
        3
    """
    if not distributed.is_initialized():
        return value
    shared = [value]
    distributed.broadcast_object_list(shared)
    return shared[0]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work queued on it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
