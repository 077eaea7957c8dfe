"""Checkpoints that are written atomically, run no code when read, and are checked field by field."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit_interactions.utilities.files import check_regular_file, write_atomically
from vit_interactions.utilities.json_files import DamagedFileError, check_keys, short_repr

ADVICE = "Restore the file, or train again into another folder."
FORMAT = 2
SEAL = "plain_sha256"

FIELDS = {
    **dict.fromkeys(("step", "evaluated", "epoch_steps"), int),
    **dict.fromkeys(("lr", "best"), float),
    **dict.fromkeys(
        ("settings", "fingerprint", "meter", "optimizer", "state_dict", "best_files", "unreadable"), dict
    ),
}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers, strings and collections of them."""
    state = {**state, "format": FORMAT}
    write_atomically(path, lambda file: torch.save({**state, SEAL: plain_checksum(state)}, file))


def plain_checksum(state: dict[str, Any]) -> str:
    """Compute the SHA-256 of everything in a checkpoint but its tensors."""
    plain = {k: v for k, v in state.items() if k not in (SEAL, "optimizer") and not k.startswith("state_dict")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU, without running any code that the file may contain.

    Raises:
        DamagedFileError: a file that is not a checkpoint of this version, or is damaged.
    """
    try:
        check_regular_file("resume", path)
        with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums, but does not check them
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    # A file that is not a checkpoint raises nearly anything, depending on what it is.
    except Exception as error:
        raise DamagedFileError(
            f"`resume` needs a checkpoint of `vit-interactions train`, got {path}, which could not be read as one "
            f"({type(error).__name__})",
            ADVICE,
        ) from error
    if damaged:
        raise DamagedFileError(f"{path} is damaged: the checksum of its part {damaged} differs", ADVICE)
    if not isinstance(state, dict) or "step" not in state or state.get("format") != FORMAT:
        raise DamagedFileError(
            f"`resume` needs a checkpoint of format {FORMAT}, got another file or an older format in {path}",
            "Resume with the version that wrote it, or train again into another folder.",
        )
    return state


def check_fields(path: Path, state: dict[str, Any]) -> None:
    """Check the plain values of a checkpoint.

    Raises:
        DamagedFileError: a field that is missing, of another type or out of range; the message names it.
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


def check_tensors(path: Path, key: str, saved: Any, own: Mapping[str, Tensor]) -> None:
    """Check the weights in field `key` of a checkpoint against the model's own.

    Raises:
        DamagedFileError: a tensor that is missing, unknown, of another shape or type, or not finite.
    """
    check_keys(path, saved, dict.fromkeys(own, Tensor), ADVICE, key)
    for name, value in own.items():
        given = saved[name]
        if (given.shape, given.dtype) != (value.shape, value.dtype):
            raise DamagedFileError(
                f"{path}: `{key}.{name}` must be {_describe(value)}, got {_describe(given)}", ADVICE
            )
        _check_finite(path, f"{key}.{name}", given)
    if unknown := sorted(saved.keys() - own.keys()):
        raise DamagedFileError(f"{path}: `{key}` must have the model's weights only, got `{unknown[0]}`", ADVICE)


def check_optimizer(path: Path, saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check the saved state of an optimizer against the optimizer that is to load it.

    Raises:
        DamagedFileError: other parameters or options, or tensors that do not fit their parameter or are not finite.
    """
    check_keys(path, saved, {"state": dict, "param_groups": list}, ADVICE, "optimizer")
    own = optimizer.param_groups
    _check_length(path, "optimizer.param_groups", saved["param_groups"], own)
    for number, (given, group) in enumerate(zip(saved["param_groups"], own, strict=True)):
        key = f"optimizer.param_groups[{number}]"
        check_keys(path, given, dict.fromkeys(group, object) | {"params": list, "lr": float}, ADVICE, key)
        _check_length(path, f"{key}.params", given["params"], group["params"])
    parameters = [parameter for group in own for parameter in group["params"]]
    for index, values in saved["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(values, dict):
            raise DamagedFileError(f"{path}: `optimizer.state` has an unknown entry {short_repr(index)}", ADVICE)
        for name, value in values.items():
            if isinstance(value, Tensor):
                _check_moment(path, f"optimizer.state[{index}].{name}", value, parameters[index])


def _check_length(path: Path, key: str, given: list[Any], own: list[Any]) -> None:
    if len(given) != len(own):
        raise DamagedFileError(f"{path}: `{key}` must have length {len(own)}, got {len(given)}", ADVICE)


def _check_moment(path: Path, key: str, value: Tensor, parameter: Tensor) -> None:
    # Factored moments have fewer dimensions than their parameter, or some of length 1; counters have none.
    if value.ndim == parameter.ndim and any(
        own not in (1, wanted) for own, wanted in zip(value.shape, parameter.shape, strict=True)
    ):
        raise DamagedFileError(
            f"{path}: `{key}` must have shape {tuple(parameter.shape)}, got {tuple(value.shape)}", ADVICE
        )
    _check_finite(path, key, value)


def _check_finite(path: Path, key: str, value: Tensor) -> None:
    if not value.isfinite().all():
        raise DamagedFileError(f"{path}: `{key}` must be finite, got NaN or infinite values", ADVICE)


def _describe(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
