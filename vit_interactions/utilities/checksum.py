"""Checksums of a model's weights and of its architecture."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn


def checksum(model: nn.Module) -> str:
    """Compute the SHA-256 of a model's weights: names, types, shapes and values, on any device.

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
        _update(digest, name, state[name])
    return digest.hexdigest()


def tensor_checksum(value: Tensor) -> str:
    """Compute the SHA-256 of a tensor: type, shape and values, wherever it lies.

    Example:
        >>> tensor_checksum(torch.zeros(2)) == tensor_checksum(torch.zeros(1, 2))
        False
    """
    digest = hashlib.sha256()
    _update(digest, "", value)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", name: str, value: Tensor) -> None:
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def architecture_checksum(model: nn.Module) -> str:
    """Compute the SHA-256 of a model's architecture.

    Models with equal weights may differ in the number of heads, an activation, an epsilon or a fill value. The checksum
    covers each module's class, its public attributes with plain values, and non-persistent buffers.

    Example:
        >>> model = nn.LayerNorm(4)
        >>> before = architecture_checksum(model)
        >>> model.eps = 1e-6
        >>> architecture_checksum(model) == before
        False
        >>> architecture_checksum(nn.LayerNorm(4).eval()) == before
        True
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        digest.update(json.dumps([name, kind, _plain_attributes(module)], sort_keys=True).encode())
    kept = model.state_dict().keys()
    for name, value in model.named_buffers():
        if name not in kept:
            _update(digest, name, value)
    return digest.hexdigest()


# Attributes that do not change results: the mode during evaluation, and where the model was loaded from.
NOT_ARCHITECTURE = ("training", "name_or_path", "_name_or_path")


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {
        name: _as_plain(value)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name not in NOT_ARCHITECTURE
        and (_is_plain(value) or _is_function(value) or hasattr(value, "to_dict"))
    }


def _as_plain(value: Any) -> Any:
    if _is_plain(value):
        return value
    if hasattr(value, "to_dict"):  # transformers' configurations
        settings = {name: part for name, part in value.to_dict().items() if name not in NOT_ARCHITECTURE}
        return json.dumps(settings, sort_keys=True, default=str)
    return f"{value.__module__}.{value.__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_function(value: Any) -> bool:
    return isinstance(getattr(value, "__qualname__", None), str) and isinstance(value.__module__, str)
