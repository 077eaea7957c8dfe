"""Choose the colors of a map: range, color map, opacity and clipped patches, the same in every figure and page.

Raw values are never changed; only what is drawn of them is.
"""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize

from vit_interactions.utilities.arrays import Array

NOISE = 1e-6  # relative differences up to this are float32 rounding
TAIL = 0.02  # fraction of the values beyond each percentile
FEW = 50  # values; with fewer, percentiles would be single values
EXCESS = 0.5  # a tail longer than this fraction of the range between the percentiles is clipped
MOST, DARK = 0.75, 0.05  # a linear scale with this fraction of the patches in this part of it would look black
DECADES = 8  # of a log scale, at most
TYPICAL = 1 / 3  # of a log scale: the median is at most this high, else a map is orange nearly everywhere
ZEROS = 0.1  # fraction of the values that may be zero, and below every log scale
COLORS = "inferno"
DIVERGING = "coolwarm"  # Moreland's: neutral at zero, uniform to both sides
NEUTRAL = ListedColormap(["0.8"], "neutral")
CROWD = 0.1  # fraction of the patches; more triangles would hide the image
MARK = 0.4  # patches, the size of a triangle
FAINT, STRONG = 0.4, 0.85  # opacity of the least and the most relevant patches; the image stays visible below

POLICY = (
    "Each map has its own color scale, from its minimum (dark) to its maximum (bright). Maps with both signs "
    "run from blue through neutral at zero to red. A scale that a few extreme patches would stretch ends at the 2nd or "
    "98th percentile instead, and triangles mark the patches beyond it (▲ above, ▼ below). Maps that would look "
    "black have a log scale. Constant maps get no colors. Colors compare patches within a map, not methods."
)


class ConstantScale(Normalize):
    """The color scale of a constant map, which gets no color."""


def is_constant(values: Array) -> bool:
    """Return whether values differ by rounding errors only.

    Example:
        >>> is_constant(np.array([0.1, 0.1 + 1e-9])), is_constant(np.array([0.0, 1e-9]))
        (True, False)
    """
    return bool(values.max() - values.min() <= NOISE * np.abs(values).max())


def robust_limits(values: Array) -> tuple[Array, Array]:
    """Compute limits of color scales that a few extreme values do not stretch.

    A limit is the minimum or maximum, unless the values beyond the 2nd or 98th percentile would take more than half as
    much of the scale as all others: then it is the percentile, rounded outward to one of the values. With fewer than 50
    values, or if those between the percentiles differ by rounding only, the limits are minimum and maximum.

    Args:
        values: (..., values); NaN is not counted.

    Returns:
        Lower and upper limits, (...) each; NaN if nothing is counted.

    Example:
        >>> low, high = robust_limits(np.array([*range(1, 100), 1e6]))
        >>> float(low), float(high)
        (1.0, 99.0)
    """
    low, high = np.fmin.reduce(values, -1), np.fmax.reduce(values, -1)
    count = (~np.isnan(values)).sum(-1)
    ranked = np.sort(values, -1)  # NaN is last
    beyond = np.floor(TAIL * (count - 1))
    places = beyond, count - 1 - beyond
    lower, upper = (
        np.take_along_axis(ranked, np.maximum(place, 0).astype(np.int64)[..., None], -1)[..., 0]
        for place in places
    )
    spread = upper - lower
    enough = (count >= FEW) & (spread > NOISE * np.maximum(np.abs(low), np.abs(high)))
    clip_low, clip_high = (enough & (tail > EXCESS * spread) for tail in (lower - low, high - upper))
    return np.where(clip_low, lower, low), np.where(clip_high, upper, high)


def linear_scale(values: Array) -> Normalize:
    """Create a linear color scale with robust limits; constant values get no color.

    If values have both signs, by more than rounding, the range is symmetric about zero. Zeros are part of the range but
    not of its percentiles, so that a few positive values among zeros are not clipped. Integers are never clipped: they
    are counts.

    Example:
        >>> scale = linear_scale(np.array([-0.5, 0.0, 2.0]))
        >>> scale.vmin, scale.vmax
        (-2.0, 2.0)
    """
    low, high = float(values.min()), float(values.max())
    if is_constant(values):
        return ConstantScale(low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2)
    low, high = (float(limit) for limit in linear_limits(values.ravel()))
    return Normalize(low, high)


def map_scale(values: Array) -> Normalize:
    """Create the color scale of a map: linear, or logarithmic if most patches would be dark on a linear scale.

    That is so if three quarters of the positive values are in the lowest 5 percent of the linear scale, and at most a
    tenth of the values are zero, such as those of excluded attention sinks; none may be negative. The log scale starts
    high enough that the median is in its lowest third. Else a few tiny values would make all others bright.

    Example:
        >>> type(map_scale(np.geomspace(1, 10, 99))).__name__, type(map_scale(np.geomspace(1, 1e6, 99))).__name__
        ('Normalize', 'LogNorm')
        >>> round(map_scale(np.array([1e-9, *[0.01] * 98, 1.0])).vmin, 6)
        0.001
    """
    scale = linear_scale(values)
    if values.min() < 0 or (values == 0).mean() > ZEROS or isinstance(scale, ConstantScale):
        return scale
    positive = values[values > 0]
    if np.quantile(np.ma.getdata(scale(positive)), MOST) < DARK:
        logarithmic = log_scale(values)
        low, high = logarithmic.vmin or 0.0, logarithmic.vmax or 0.0
        decades = (np.log10(high) - float(np.median(np.log10(positive)))) / (1 - TYPICAL)
        return LogNorm(max(low, high / 10.0**decades), high, clip=True)
    return scale


def scale_remark(values: Array) -> str:
    """Return what a caption adds to the name of a map: "constant" or "log scale", or "".

    Example:
        >>> scale_remark(np.zeros((2, 2))), scale_remark(np.eye(2))
        ('constant', '')
    """
    scale = map_scale(np.asarray(values, np.float64))
    return "constant" if isinstance(scale, ConstantScale) else "log scale" if isinstance(scale, LogNorm) else ""


def linear_limits(values: Array) -> tuple[Array, Array]:
    """Compute the limits of `linear_scale` for values that are not constant.

    Args:
        values: (..., values); NaN is not counted.

    Returns:
        Lower and upper limits, (...) each.
    """
    low, high = np.fmin.reduce(values, -1), np.fmax.reduce(values, -1)
    signed = np.minimum(-low, high) > NOISE * np.maximum(-low, high)
    shown = np.where(signed[..., None], np.abs(values), values)
    zeros = (shown == 0).any(-1)
    whole = ((values == np.round(values)) | np.isnan(values)).all(-1)
    low, high = np.fmin.reduce(shown, -1), np.fmax.reduce(shown, -1)
    robust_low, robust_high = robust_limits(np.where(shown == 0, np.nan, shown))
    low = np.where(whole, low, np.where(zeros, np.fmin(robust_low, 0.0), robust_low))
    high = np.where(whole, high, np.where(zeros, np.fmax(robust_high, 0.0), robust_high))
    return np.where(signed, -high, low), high


def log_scale(values: Array) -> Normalize:
    """Create a log color scale with robust limits, over at most eight decades.

    Constant or negative values get a linear scale.

    Example:
        >>> scale = log_scale(np.array([0.0, 1e-9, 1.0]))
        >>> scale.vmin, scale.vmax
        (1e-08, 1.0)
    """
    if is_constant(values) or values.min() < 0:
        return linear_scale(values)
    low, high = (float(limit) for limit in log_limits(values.ravel()))
    return LogNorm(low, high, clip=True) if low < high else linear_scale(values)


def log_limits(values: Array) -> tuple[Array, Array]:
    """Compute the limits of `log_scale`: `robust_limits` of the logarithms of positive values.

    Args:
        values: (..., values) ≥ 0; NaN is not counted.

    Returns:
        Lower and upper limits, (...) each; NaN if no value is positive.
    """
    positive = values > 0
    logs = np.where(positive, np.log10(np.where(positive, values, 1.0)), np.nan)
    low, high = robust_limits(logs)
    return 10.0 ** np.maximum(low, high - DECADES), 10.0**high


def is_symmetric(scale: Normalize) -> bool:
    """Return whether a scale is symmetric about zero, so that it needs diverging colors."""
    if isinstance(scale, ConstantScale):
        return False
    return scale.vmin is not None and scale.vmin < 0 and scale.vmin == -(scale.vmax or 0.0)


def clipped(values: Array, scale: Normalize) -> tuple[Array, Array]:
    """Return which values are below and above a scale, by more than rounding.

    Example:
        >>> below, above = clipped(np.array([0.0, 1.0, 2.0]), Normalize(0, 1))
        >>> below.tolist(), above.tolist()
        ([False, False, False], [False, False, True])
    """
    low, high = scale.vmin or 0.0, scale.vmax or 0.0
    return low - values > NOISE * abs(low), values - high > NOISE * abs(high)


def scale_name(scale: Normalize, values: Array, *, given: bool = False) -> str:
    r"""Return the label suffix of a color scale: whether it is logarithmic, and what its triangles mean.

    Args:
        scale: the color scale.
        values: the values that it is for.
        given: whether the scale was made for other values, so that its limits are not percentiles of these.

    Example:
        >>> values = np.array([*np.linspace(0.1, 0.2, 99), 7.0])
        >>> scale_name(linear_scale(values), values)
        '\n▲ above the 98th percentile'
    """
    below, above = (bool(cells.any()) for cells in clipped(values, scale))
    name = " (log scale)" if isinstance(scale, LogNorm) else ""
    if is_symmetric(scale) and (below or above) and not given:
        return f"{name}\n▲▼ beyond the 98th percentile of |values|"
    name += f"\n▲ above the {'range' if given else '98th percentile'}" if above else ""
    # A log scale may end at a percentile or at its last decade.
    name += f"\n▼ below the {'range' if given or name.startswith(' (log') else '2nd percentile'}" if below else ""
    return name


def color_map(scale: Normalize, *, more_is_relevant: bool = True) -> Colormap:
    """Return the color map for a scale: relevant is bright, or red; constant maps are gray."""
    if isinstance(scale, ConstantScale):
        return NEUTRAL
    return colormaps[(DIVERGING if is_symmetric(scale) else COLORS) + ("" if more_is_relevant else "_r")]


def paint(values: Array, scale: Normalize, *, more_is_relevant: bool = True) -> Array:
    """Map values to colors, which are the more opaque the more relevant they are, so that the image stays visible.

    Constant maps are transparent.

    Args:
        values: (..., ), finite.
        scale: the color scale, from `map_scale`, `linear_scale` or `log_scale`.
        more_is_relevant: whether higher is more relevant; False: lower is.

    Returns:
        (..., 4) uint8, RGBA, to be drawn on a gray image.
    """
    colors = color_map(scale, more_is_relevant=more_is_relevant)
    shades = np.clip(np.ma.getdata(scale(values)), 0, 1)
    strength = np.abs(2 * shades - 1) if is_symmetric(scale) else shades if more_is_relevant else 1 - shades
    opacity = np.zeros_like(shades) if isinstance(scale, ConstantScale) else FAINT + (STRONG - FAINT) * strength
    painted: Array = colors(shades, alpha=opacity, bytes=True)
    return painted


def palette(*, diverging: bool = False) -> Array:
    """Return the 256 colors of maps, or of maps with both signs, as (256, 4) uint8, RGBA.

    Example:
        >>> palette()[[0, -1]].tolist()
        [[0, 0, 3, 102], [252, 254, 164, 216]]
    """
    low, high = -255.0 if diverging else 0.0, 255.0
    return paint(np.linspace(low, high, 256), Normalize(low, high))


def map_colors(values: Array) -> Array:
    """Map a map's values to the colors in which it is drawn on a gray image, with its own scale.

    Args:
        values: (rows, cols), finite; higher is more relevant.

    Returns:
        (rows, cols, 4) uint8, RGBA. Maps with both signs get diverging colors, symmetric about zero; constant maps are
        transparent.

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
    return paint(values, map_scale(values))


def triangles(cells: Array, *, up: bool) -> Array:
    """Return the corners of the small triangles that mark clipped patches.

    Args:
        cells: (rows, cols) bool.
        up: whether they point up, for values above the scale.

    Returns:
        (marked, 3, 2): x to the right and y down, in patches; none if they would hide the image.

    Example:
        >>> triangles(np.arange(12)[None] == 1, up=True).tolist()
        [[[1.5, 0.3], [1.7, 0.7], [1.3, 0.7]]]
    """
    if cells.mean() > CROWD:
        cells = np.zeros_like(cells)
    height = -MARK / 2 if up else MARK / 2
    shape = np.array([[0, height], [MARK / 2, -height], [-MARK / 2, -height]])
    centers = np.argwhere(cells)[:, None, ::-1] + 0.5
    found: Array = centers + shape
    return found
