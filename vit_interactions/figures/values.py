"""Convert tensors to arrays, and set and measure text."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.text import printable


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


def set_title(axes: Axes, title: str) -> None:
    """Set a title without parsing "$" as math text."""
    axes.set_title(printable(title), fontsize=10, parse_math=False, usetex=False)


def text_width(text: str, size: float) -> float:
    """Return the width of a text in points for a font size in points."""
    width: float = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    return width
