"""Map patch maps to RGB for side-by-side display: each with its own scale, bright or red where relevant."""

import numpy as np
from matplotlib.cm import ScalarMappable

from vit_interactions.figures.overlay import COLORS, DIVERGING
from vit_interactions.figures.values import is_symmetric, linear_scale
from vit_interactions.utilities.arrays import Array

POLICY = (
    "Each map has its own color scale, from its minimum (dark) to its maximum (bright). Maps with both signs "
    "run from blue through neutral at zero to red. Colors compare patches within a map, not methods."
)


def map_colors(values: Array) -> Array:
    """Map values to RGB, with the color scale normalized to the map's own minimum and maximum.

    Args:
        values: (rows, cols), finite; higher is more relevant.

    Returns:
        (rows, cols, 3) uint8, RGB. Maps with both signs get diverging colors, symmetric about zero; constant maps get
        the middle color.

    Raises:
        ValueError: the map is not 2-D, is empty or is not finite.

    Example:
        >>> bool((map_colors(np.array([[0.0, 1.0]])) == map_colors(np.array([[5.0, 7.0]]))).all())
        True
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"`values` must have shape (rows, cols), got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("`values` must be finite, got NaN or infinite values.")
    scale = linear_scale(values)
    colors = ScalarMappable(scale, DIVERGING if is_symmetric(scale) else COLORS)
    rgba: Array = colors.to_rgba(values, bytes=True)
    return rgba[..., :3]
