"""Checkpoints that are whole or not there at all, and that run no code when they are read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside the wanted one, and put it in its place when it is on the disk.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "a"), lambda file: file.write(b"whole"))
        ...     Path(folder, "a").read_bytes(), os.listdir(folder)
        (b'whole', ['a'])
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming in the folder outlive a loss of power, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers, strings and collections of them."""
    write_whole(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU, without running any code that the file may hold.

    Raises:
        ValueError: the file is no checkpoint of tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Each way to be no checkpoint has an error of its own; what they mean to the user is one thing.
    except Exception as error:
        raise ValueError(
            f"`resume` needs a checkpoint of `vit-interactions train`, but {path} could not be read as one "
            f"({type(error).__name__})."
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"`resume` needs a checkpoint of `vit-interactions train`, but {path} is none.")
    return state
