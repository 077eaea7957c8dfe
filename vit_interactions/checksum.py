"""Checksums of a model: of its weights, and of how it is built."""

import hashlib
import json
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


def options_checksum(model: nn.Module) -> str:
    """Compute the SHA-256 of how a model is built: the classes of its modules, their options, and configurations.

    Options are public attributes that JSON can hold, such as a pooling's name or a number of heads.

    Example:
        >>> same = options_checksum(nn.Dropout(0.1)) == options_checksum(nn.Dropout(0.1))
        >>> same, options_checksum(nn.Dropout(0.1)) == options_checksum(nn.Dropout(0.2))
        (True, False)
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        options = {
            key: _as_json(value) for key, value in vars(module).items() if key[0] != "_" and key != "training"
        }
        digest.update(f"{name} {type(module).__qualname__} {sorted(options.items())}\n".encode())
    return digest.hexdigest()


def _as_json(value: Any) -> str:
    """Return a value as JSON; configurations of transformers by their content, anything else as nothing."""
    try:
        if hasattr(value, "to_dict"):
            return json.dumps(value.to_dict(), sort_keys=True, default=str)
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return ""
