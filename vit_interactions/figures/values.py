"""Convert tensors to arrays and choose color scales that do not turn rounding errors into structure."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.text import printable

NOISE = 1e-6  # relative differences up to this are float32 rounding


def to_array(name: str, values: Tensor, shape: tuple[int, ...]) -> Array:
    """Convert a tensor of any device and dtype to a float64 or bool array.

    Raises:
        ValueError: the shape is different, or values are not finite.

    Example:
        >>> to_array("patch_map", torch.tensor([1, 2], dtype=torch.bfloat16), (2,))
        array([1., 2.])
    """
    if tuple(values.shape) != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {tuple(values.shape)}.")
    values = values.detach().cpu()
    array: Array = (values if values.dtype == torch.bool else values.double()).numpy()
    if not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite, got {int((~np.isfinite(array)).sum())} NaN or infinite values."
        )
    return array


def pairs_array(uncertainty: Tensor, layout: TokenLayout) -> Array:
    """Convert U (patches, patches) of one image to an array."""
    return to_array("uncertainty", uncertainty, (layout.patches, layout.patches))


def is_constant(values: Array) -> bool:
    """Return whether values differ by rounding errors only.

    Example:
        >>> is_constant(np.array([0.1, 0.1 + 1e-9])), is_constant(np.array([0.0, 1e-9]))
        (True, False)
    """
    return bool(values.max() - values.min() <= NOISE * np.abs(values).max())


class ConstantScale(Normalize):
    """The color scale of a constant map, which gets the middle color."""


def linear_scale(values: Array) -> Normalize:
    """Create a linear color scale from the minimum to the maximum; constant values get the middle color.

    If values have both signs, by more than rounding, the range is symmetric about zero.

    Example:
        >>> scale = linear_scale(np.array([-0.5, 0.0, 2.0]))
        >>> scale.vmin, scale.vmax
        (-2.0, 2.0)
    """
    low, high = float(values.min()), float(values.max())
    if is_constant(values):
        # Not quite symmetric: the exact middle lies between two colors, where rounding would show.
        return ConstantScale(low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2.02)
    if min(-low, high) > NOISE * max(-low, high):
        low, high = -max(-low, high), max(-low, high)
    return Normalize(low, high)


def log_scale(values: Array, decades: int) -> Normalize:
    """Create a log color scale, down to at most `decades` below the maximum.

    Constant or negative values get a linear scale.

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
    """Return whether a scale is symmetric about zero, so that it needs diverging colors."""
    return scale.vmin is not None and scale.vmin < 0 and scale.vmin == -(scale.vmax or 0.0)


def scale_name(scale: Normalize) -> str:
    """Return the label suffix of a color scale; "" for a linear one."""
    return " (log scale)" if isinstance(scale, LogNorm) else ""


def set_title(axes: Axes, title: str) -> None:
    """Set a title without parsing "$" as math text."""
    axes.set_title(printable(title), fontsize=10, parse_math=False, usetex=False)


def text_width(text: str, size: float) -> float:
    """Return the width of a text in points for a font size in points."""
    width: float = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    return width
