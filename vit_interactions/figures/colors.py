"""The colours of a map among others: each by a scale of its own, bright or red where relevant."""

import numpy as np
from matplotlib.cm import ScalarMappable

from vit_interactions.figures.overlay import COLORS, DIVERGING
from vit_interactions.figures.values import Array, is_symmetric, linear_scale

POLICY = (
    "Each map is scaled by itself, from its smallest value (dark) to its largest (bright); a map with values of both "
    "signs from blue over a neutral zero to red. Colours compare the patches of one map, not methods."
)


def map_colors(values: Array) -> Array:
    """Colour a map by its own smallest and largest value, which so are the scale's ends.

    Args:
        values: (rows, cols), finite, more = more relevant.

    Returns:
        (rows, cols, 3) uint8, RGB. Values of both signs get diverging colours, symmetric about zero; a constant map
        the middle colour.

    Raises:
        ValueError: a map of another shape, or not finite.

    Example:
        >>> bool((map_colors(np.array([[0.0, 1.0]])) == map_colors(np.array([[5.0, 7.0]]))).all())
        True
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"`values` must have shape (rows, cols), but got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("`values` must be finite, but got NaN or infinite values.")
    scale = linear_scale(values)
    colors = ScalarMappable(scale, DIVERGING if is_symmetric(scale) else COLORS)
    rgba: Array = colors.to_rgba(values, bytes=True)
    return rgba[..., :3]
