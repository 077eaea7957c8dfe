"""Checkpoints that are whole or not there at all, and that run no code when they are read."""

from pathlib import Path
from typing import Any

import torch

from vit_interactions.files import check_regular_file, write_whole


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers, strings and collections of them."""
    write_whole(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU, without running any code that the file may hold.

    Raises:
        ValueError: the file is no checkpoint of tensors and plain values.
    """
    try:
        check_regular_file("resume", path)
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
