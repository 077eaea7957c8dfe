"""Checkpoints that are whole or not there at all, run no code when they are read, and are checked field by field."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit_interactions.utilities.files import check_regular_file, write_whole
from vit_interactions.utilities.json_files import DamagedFileError, check_keys, short_repr

ADVICE = "Restore the file, or train again into another folder."

SEAL = "plain_sha256"

FIELDS = {
    **dict.fromkeys(("step", "evaluated", "epoch_steps"), int),
    **dict.fromkeys(("lr", "best"), float),
    **dict.fromkeys(("settings", "origin", "meter", "optimizer", "state_dict", "best_files"), dict),
}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers, strings and collections of them."""
    sealed = {**state, SEAL: plain_checksum(state)}
    write_whole(path, lambda file: torch.save(sealed, file))


def plain_checksum(state: dict[str, Any]) -> str:
    """Compute the SHA-256 of all that a checkpoint holds beside tensors."""
    plain = {k: v for k, v in state.items() if k not in (SEAL, "optimizer") and not k.startswith("state_dict")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU, without running any code that the file may hold.

    Raises:
        DamagedFileError: the file is no checkpoint of tensors and plain values, or a byte of it changed.
    """
    try:
        check_regular_file("resume", path)
        with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums, but does not check them
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    # Each way to be no checkpoint has an error of its own; what they mean to the user is one thing.
    except Exception as error:
        raise DamagedFileError(
            f"`resume` needs a checkpoint of `vit-interactions train`, but {path} could not be read as one "
            f"({type(error).__name__})",
            ADVICE,
        ) from error
    if damaged:
        raise DamagedFileError(f"{path} is damaged: the checksum of its part {damaged} differs", ADVICE)
    if not isinstance(state, dict) or "step" not in state:
        raise DamagedFileError(
            f"`resume` needs a checkpoint of `vit-interactions train`, but {path} is none", ADVICE
        )
    return state


def check_fields(path: Path, state: dict[str, Any]) -> None:
    """Check the plain values of a checkpoint.

    Raises:
        DamagedFileError: a field that is missing, of another type or outside its range; the message names it.
    """
    check_keys(path, state, FIELDS, ADVICE)
    check_keys(path, state["meter"], {"sums": dict, "counts": dict}, ADVICE, "meter")
    for since in ("row", "epoch"):
        check_keys(path, state["meter"]["sums"], {since: dict}, ADVICE, "meter.sums")
        check_keys(path, state["meter"]["counts"], {since: float}, ADVICE, "meter.counts")
        sums = state["meter"]["sums"][since]
        check_keys(path, sums, dict.fromkeys(sums, float), ADVICE, f"meter.sums.{since}")
    for name, holds, expected in (
        ("step", state["step"] >= 0, ">= 0"),
        ("lr", state["lr"] >= 0, ">= 0"),
        ("best", -1 <= state["best"] <= 100, "in [-1, 100]"),
        ("epoch_steps", state["epoch_steps"] >= 1, ">= 1"),
        ("evaluated", 0 <= state["evaluated"] <= state["step"], f"in [0, {state['step']}]"),
    ):
        if not holds:
            raise DamagedFileError(f"{path}: `{name}` must be {expected}, got {short_repr(state[name])}", ADVICE)
    if state.get(SEAL) != plain_checksum(state):
        raise DamagedFileError(
            f"{path} was edited: the checksum of its plain values (`step`, `evaluated`, `best`, ...) differs",
            ADVICE,
        )


def check_tensors(path: Path, key: str, saved: Any, wanted: Mapping[str, Tensor]) -> None:
    """Check the weights of a checkpoint against those of the model.

    Args:
        path: of the checkpoint.
        key: the field that holds them.
        saved: its value.
        wanted: name -> tensor of the same shape and type.

    Raises:
        DamagedFileError: a tensor that is missing, unknown, of another shape or type, or not finite.
    """
    check_keys(path, saved, dict.fromkeys(wanted, Tensor), ADVICE, key)
    for name, value in wanted.items():
        given = saved[name]
        if (given.shape, given.dtype) != (value.shape, value.dtype):
            raise DamagedFileError(f"{path}: `{key}.{name}` must be {_words(value)}, got {_words(given)}", ADVICE)
        check_finite(path, f"{key}.{name}", given)
    if unknown := sorted(saved.keys() - wanted.keys()):
        raise DamagedFileError(f"{path}: `{key}` has `{unknown[0]}`, which the model has not", ADVICE)


def check_optimizer(path: Path, saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check the state of an optimizer against the one that is to go on with it.

    Raises:
        DamagedFileError: groups of other parameters or options, or tensors that fit no parameter or are not finite.
    """
    check_keys(path, saved, {"state": dict, "param_groups": list}, ADVICE, "optimizer")
    own = optimizer.param_groups
    if len(saved["param_groups"]) != len(own):
        raise DamagedFileError(
            f"{path}: `optimizer.param_groups` must be {len(own)}, got {len(saved['param_groups'])}", ADVICE
        )
    for number, (given, group) in enumerate(zip(saved["param_groups"], own, strict=True)):
        where = f"optimizer.param_groups[{number}]"
        check_keys(path, given, dict.fromkeys(group, object) | {"params": list, "lr": float}, ADVICE, where)
        if len(given["params"]) != len(group["params"]):
            raise DamagedFileError(
                f"{path}: `{where}.params` must be {len(group['params'])}, got {len(given['params'])}", ADVICE
            )
    parameters = [parameter for group in own for parameter in group["params"]]
    for index, values in saved["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(values, dict):
            raise DamagedFileError(f"{path}: `optimizer.state` has an unknown entry {short_repr(index)}", ADVICE)
        for name, value in values.items():
            if isinstance(value, Tensor):
                _check_moment(path, f"optimizer.state[{index}].{name}", value, parameters[index])


def _check_moment(path: Path, key: str, value: Tensor, parameter: Tensor) -> None:
    # Factored moments have fewer dimensions than their parameter, or some of length 1; counters have none.
    if value.ndim == parameter.ndim and any(
        own not in (1, wanted) for own, wanted in zip(value.shape, parameter.shape, strict=True)
    ):
        raise DamagedFileError(
            f"{path}: `{key}` must have shape {tuple(parameter.shape)}, got {tuple(value.shape)}", ADVICE
        )
    check_finite(path, key, value)


def check_finite(path: Path, key: str, value: Tensor) -> None:
    """Raise DamagedFileError where a tensor has NaN or infinite values."""
    if not value.isfinite().all():
        raise DamagedFileError(f"{path}: `{key}` must be finite, got NaN or infinite values", ADVICE)


def _words(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
