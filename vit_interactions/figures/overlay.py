"""A map over patches, of any method, as colours over the photograph."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.canvas import draw_cells, draw_image
from vit_interactions.figures.values import (
    Array,
    ConstantScale,
    is_symmetric,
    linear_scale,
    log_scale,
    scale_name,
    to_array,
)
from vit_interactions.images.prepared import PreparedImage

COLORS = "inferno"
DIVERGING = "coolwarm"  # Moreland's, even steps to either side of a neutral zero
LESS_IS_RELEVANT = "(less = more relevant)"
OPACITY = 0.65
DIVERGING_OPACITY = 0.8  # light and dark of the photograph would drown these pale colours
LABEL_LENGTH = 36  # characters of a line beside a colour bar
DECADES = 4  # below the largest value; enough to show which patches stand out


def draw_map(
    axes: Axes,
    prepared: PreparedImage,
    patch_map: Tensor,
    layout: TokenLayout,
    *,
    label: str = "",
    more_is_relevant: bool = True,
    log: bool = False,
    norm: Normalize | None = None,
) -> AxesImage:
    """Draw a map over patches on the whole photograph, with a colour bar of the raw values.

    Bright means relevant, always: where less is more relevant, the colours and the bar are turned round. Values on
    both sides of zero get diverging colours instead, neutral at zero and red where relevant.

    Args:
        axes: where to draw.
        prepared: from `prepare`.
        patch_map: (rows, cols), finite; an explainer's `patch_map` of one image.
        layout: the model's, from `token_layout`.
        label: what the values are, for the colour bar.
        more_is_relevant: as the explainer says of itself.
        log: scale the colours logarithmically, over at most four decades below the largest value.
        norm: the scale of the colours, to share it among maps or to fix its range; None: made from the values.

    Raises:
        ValueError: a map of another shape than the layout's, or not finite.
    """
    values = to_array("patch_map", patch_map, layout.grid)
    scale = norm or (log_scale(values, DECADES) if log else linear_scale(values))
    direction = "" if more_is_relevant else f"\n{LESS_IS_RELEVANT}"
    return draw_scaled(
        axes, prepared, values, layout, scale, label + scale_name(scale) + direction, more_is_relevant
    )


def draw_scaled(
    axes: Axes,
    prepared: PreparedImage,
    values: Array,
    layout: TokenLayout,
    scale: Normalize,
    label: str,
    more_is_relevant: bool,
) -> AxesImage:
    """Draw values (rows, cols) by a scale, with a colour bar that is labelled as given."""
    colors, opacity = (DIVERGING, DIVERGING_OPACITY) if is_symmetric(scale) else (COLORS, OPACITY)
    mappable = ScalarMappable(scale, colors if more_is_relevant else f"{colors}_r")
    draw_image(axes, prepared, layout, grey=True)
    image = draw_cells(axes, prepared, layout, mappable.to_rgba(values, alpha=opacity, bytes=True))
    bar = draw_color_bar(axes, mappable, values, _wrapped(label.strip()))
    if not more_is_relevant:
        bar.ax.invert_yaxis()
    return image


def draw_color_bar(axes: Axes, mappable: ScalarMappable, values: Array, label: str) -> Colorbar:
    """Put a colour bar as high as the axes to their right, with the values that its colours stand for."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("`axes` must belong to a figure, but belongs to none.")
    scale: Any = mappable.norm
    place = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = figure.colorbar(mappable, cax=place, extend=_extend(scale, values))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(which="both", labelsize=8)
    bar.ax.yaxis.get_offset_text().set_fontsize(8)
    _set_ticks(bar, scale, values)
    return bar


def _wrapped(label: str) -> str:
    """Break long lines of a label, but not within what matplotlib would set as mathematics.

    Example:
        >>> _wrapped("convergence of the tendency (> 0: fields point here)").splitlines()
        ['convergence of the tendency (> 0:', 'fields point here)']
    """
    if "$" in label:
        return label
    return "\n".join(textwrap.fill(line, LABEL_LENGTH, break_long_words=False) for line in label.split("\n"))


def _extend(scale: Normalize, values: Array) -> str:
    """Say at which ends the values exceed the scale."""
    below = scale.vmin is not None and bool(values.min() < scale.vmin)
    above = scale.vmax is not None and bool(values.max() > scale.vmax)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        below, above
    ]


def _set_ticks(bar: Colorbar, scale: Normalize, values: Array) -> None:
    """Name the one value of a constant map, and only whole numbers where all values are."""
    if isinstance(scale, ConstantScale):
        bar.set_ticks([float(values.flat[0])])
    elif not isinstance(scale, LogNorm) and (values == np.round(values)).all():
        bar.set_ticks(MaxNLocator(integer=True))
