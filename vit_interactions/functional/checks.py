"""Checks of arguments that several functions share; each error says what was expected and what came."""

from torch import Tensor


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless `value` lies in [0, 1]."""
    if isinstance(value, bool) or not 0.0 <= value <= 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1], but got {value}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, but got {value!r}.")


def check_uncertainty(uncertainty: Tensor) -> None:
    """Raise ValueError unless U is (batch, patches, patches) and finite."""
    if uncertainty.ndim != 3 or uncertainty.shape[1] != uncertainty.shape[2]:
        raise ValueError(
            f"`uncertainty` must have shape (batch, patches, patches), but got {tuple(uncertainty.shape)}."
        )
    if not uncertainty.isfinite().all():
        raise ValueError("`uncertainty` must be finite, but got NaN or infinite values.")


def check_grid(grid: tuple[int, int], patches: int) -> None:
    """Raise ValueError unless rows × cols is the number of patches."""
    rows, cols = grid
    if rows * cols != patches:
        raise ValueError(
            f"`grid` must be (rows, cols) with rows * cols = {patches} patches, but got {tuple(grid)}."
        )
