"""This process's place among those that work together, by the variables that torchrun sets."""

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
    """Where this process computes, and which of all it is.

    Attributes:
        device: of this process.
        rank: its number, from 0 on.
        world: how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0


def start_process(device: str) -> Process:
    """Join the other processes, if torchrun or Slurm started any.

    Args:
        device: auto, cpu, cuda, ...; with several processes each takes the card of its local rank.

    Raises:
        ValueError: no such device.
    """
    place = SimpleNamespace(device=check_device("device", device))
    init_distributed_device(place)  # type: ignore[no-untyped-call]
    return Process(torch.device(check_device("device", str(place.device))), place.rank, place.world_size)


def end_process() -> None:
    """Leave the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def joined(device: str) -> Iterator[Process]:
    """Be one of the processes for a block, which ends when all have come to its end, however long that takes.

    Processes that the caller has joined already stay so.

    Args:
        device: as of `start_process`.

    Raises:
        ValueError: no such device.

    Example:
        >>> with joined("cpu") as process:
        ...     process.first
        True
    """
    before = distributed.is_initialized()
    process = (
        Process(torch.device(check_device("device", device)), distributed.get_rank(), distributed.get_world_size())
        if before
        else start_process(device)
    )
    # The group's own barrier gives up after minutes.
    patient: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if process.world > 1 else None
    try:
        yield process
        if patient is not None:
            distributed.barrier(patient)
    finally:
        if not before:
            end_process()


def gather(value: Any) -> list[Any]:
    """Give every process what each one has, in the order of the processes.

    Example:
        >>> gather(3)
        [3]
    """
    if not distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, value)
    return gathered


def share(value: Any) -> Any:
    """Give every process what the first one has; without other processes, the value itself.

    Example:
        >>> share(3)
        3
    """
    if not distributed.is_initialized():
        return value
    shared = [value]
    distributed.broadcast_object_list(shared)
    return shared[0]
