"""Shared checks of arguments; each error names the argument, the expected value and the value received."""

import operator
from numbers import Real
from typing import TYPE_CHECKING, Any

# The command line checks options before it imports torch.
if TYPE_CHECKING:
    from torch import Tensor


def check_fraction(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1], got {value!r}.")


def check_weight(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is finite and ≥ 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < float("inf"):
        raise ValueError(f"`{name}` must be finite and >= 0, got {value!r}.")


def check_index(name: str, value: Any) -> int:
    """Return `value` as an int; raise ValueError unless it is an int (or a numpy integer)."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"`{name}` must be an int, got {value!r}.")
    return operator.index(value)


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless `value` is an int ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be an int >= 1, got {value!r}.")


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """Return `value` as a tuple; raise ValueError unless it is a pair of ints > 0."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"`{name}` must be a pair of ints > 0, got {value!r}.")
    first, second = (check_index(name, part) for part in value)
    if first <= 0 or second <= 0:
        raise ValueError(f"`{name}` must be a pair of ints > 0, got {value!r}.")
    return first, second


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_device(name: str, value: str) -> str:
    """Return the name of an available device; "auto" selects CUDA, then MPS, then the CPU.

    Raises:
        ValueError: the device is not available.

    Example:
        >>> check_device("--device", "cpu")
        'cpu'
    """
    import torch

    if value == "auto":
        accelerators = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return next((kind for kind, found in accelerators.items() if found), "cpu")
    try:
        torch.empty(0, device=value).cpu()
    # An unknown name, a missing driver and a missing GPU raise different types.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"`{name}` must be auto or a device of this machine, got {value!r}: {error}") from error
    return value


def check_uncertainty(uncertainty: "Tensor") -> None:
    """Raise an error unless U is a finite tensor (batch, patches, patches)."""
    from torch import Tensor

    if not isinstance(uncertainty, Tensor):
        raise TypeError(f"`uncertainty` must be a tensor, got {type(uncertainty).__name__}.")
    if uncertainty.ndim != 3 or uncertainty.shape[1] != uncertainty.shape[2] or 0 in uncertainty.shape:
        raise ValueError(
            f"`uncertainty` must have shape (batch, patches, patches), got {tuple(uncertainty.shape)}."
        )
    if not uncertainty.isfinite().all():
        raise ValueError("`uncertainty` must be finite, got NaN or infinite values.")


def check_excluded(exclude: "Tensor | None", uncertainty: "Tensor") -> None:
    """Raise ValueError unless `exclude` is None, or bool (batch, patches) as U (batch, patches, patches)."""
    import torch

    if exclude is not None and (exclude.dtype != torch.bool or exclude.shape != uncertainty.shape[:2]):
        raise ValueError(
            f"`exclude` must be bool of shape {tuple(uncertainty.shape[:2])}, got {exclude.dtype} "
            f"{tuple(exclude.shape)}."
        )


def check_grid(grid: tuple[int, int], patches: int) -> None:
    """Raise ValueError unless rows × cols is the number of patches."""
    rows, cols = check_pair("grid", grid)
    if rows * cols != patches:
        raise ValueError(f"`grid` must be (rows, cols) with rows * cols = {patches} patches, got {tuple(grid)}.")
