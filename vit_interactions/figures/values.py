"""From tensors to what matplotlib draws: checked arrays, colour scales that show no structure in noise, text."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.utilities.text import printable

Array = NDArray[Any]
NOISE = 1e-6  # relative differences up to this are float32's, not the model's


def to_array(name: str, values: Tensor, shape: tuple[int, ...]) -> Array:
    """Bring a tensor from any device and dtype to float64, or bool, on the host.

    Raises:
        ValueError: another shape, or values that are not finite.

    Example:
        >>> to_array("patch_map", torch.tensor([1, 2], dtype=torch.bfloat16), (2,))
        array([1., 2.])
    """
    if tuple(values.shape) != shape:
        raise ValueError(f"`{name}` must have shape {shape}, but got {tuple(values.shape)}.")
    values = values.detach().cpu()
    array: Array = (values if values.dtype == torch.bool else values.double()).numpy()
    if not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite, but got {int((~np.isfinite(array)).sum())} NaN or infinite values."
        )
    return array


def pairs_array(uncertainty: Tensor, layout: TokenLayout) -> Array:
    """Bring one image's U (patches, patches) to the host."""
    return to_array("uncertainty", uncertainty, (layout.patches, layout.patches))


def is_constant(values: Array) -> bool:
    """Tell whether values differ by no more than rounding does.

    Example:
        >>> is_constant(np.array([0.1, 0.1 + 1e-9])), is_constant(np.array([0.0, 1e-9]))
        (True, False)
    """
    return bool(values.max() - values.min() <= NOISE * np.abs(values).max())


class ConstantScale(Normalize):
    """The scale of a map that has one value only, which gets the middle colour."""


def linear_scale(values: Array) -> Normalize:
    """Scale colours from the smallest to the largest value; a constant gets the middle colour.

    Values on both sides of zero, by more than rounding, get a range that is symmetric about it.

    Example:
        >>> scale = linear_scale(np.array([-0.5, 0.0, 2.0]))
        >>> scale.vmin, scale.vmax
        (-2.0, 2.0)
    """
    low, high = float(values.min()), float(values.max())
    if is_constant(values):
        # Not quite symmetric, for the middle lies between two colours and rounding would show.
        return ConstantScale(low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2.02)
    if min(-low, high) > NOISE * max(-low, high):
        low, high = -max(-low, high), max(-low, high)
    return Normalize(low, high)


def log_scale(values: Array, decades: int) -> Normalize:
    """Scale colours logarithmically, down to so many decades below the largest value at most.

    Values that are constant or negative get a linear scale.

    Example:
        >>> scale = log_scale(np.array([0.0, 1e-9, 1.0]), decades=4)
        >>> scale.vmin, scale.vmax
        (0.0001, 1.0)
    """
    if is_constant(values) or values.min() < 0:
        return linear_scale(values)
    high = float(values.max())
    low = max(float(values[values > 0].min()), high * 10.0**-decades)
    return LogNorm(low, high, clip=True) if low < high else linear_scale(values)


def is_symmetric(scale: Normalize) -> bool:
    """Tell whether a scale is centred at zero, and so calls for colours that diverge from there."""
    return scale.vmin is not None and scale.vmin < 0 and scale.vmin == -(scale.vmax or 0.0)


def scale_name(scale: Normalize) -> str:
    """Say in a label what kind of scale it is: nothing for a linear one."""
    return " (log scale)" if isinstance(scale, LogNorm) else ""


def set_title(axes: Axes, title: str) -> None:
    """Set a title in which "$" is a dollar."""
    axes.set_title(printable(title), fontsize=10, parse_math=False, usetex=False)
