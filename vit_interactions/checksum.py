"""The checksum of a model's weights."""

import hashlib
from typing import Any

import torch
from torch import nn


def checksum(model: nn.Module) -> str:
    """Compute the SHA-256 of a model's weights: names, types, shapes and values, wherever they lie.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> before = checksum(model)
        >>> _ = nn.init.constant_(model.weight, 7.0)
        >>> checksum(model) == before
        False
    """
    digest = hashlib.sha256()
    state: dict[str, Any] = model.state_dict()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
