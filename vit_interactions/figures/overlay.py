"""Draw the patch map of any method as colors on the image."""

import textwrap
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.explain.base import to_pixels
from vit_interactions.figures.canvas import draw_cells, draw_image
from vit_interactions.figures.display import (
    ConstantScale,
    clipped,
    color_map,
    log_scale,
    map_scale,
    paint,
    scale_name,
    triangles,
)
from vit_interactions.figures.values import to_array
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.utilities.arrays import Array

LESS_IS_RELEVANT = "(lower is more relevant)"
LABEL_LENGTH = 36  # characters per line of a color bar label
TRIANGLE: dict[str, Any] = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.4}


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
    smooth: bool = False,
) -> AxesImage:
    """Draw a patch map on the whole image, with a color bar of the raw values.

    Bright always means relevant: if lower values are more relevant, colors and color bar are reversed. Maps with both
    signs get diverging colors instead, neutral at zero and red where relevant. Positive maps of which most patches
    would be dark get a log scale. If a few extreme patches would stretch the scale, it ends at a percentile, and
    triangles mark the patches beyond it. The color bar states both.

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        patch_map: (rows, cols), finite; from an explainer's `patch_map`.
        layout: token layout of the model, from `token_layout`.
        label: color bar label.
        more_is_relevant: the explainer's attribute of that name.
        log: use a log scale, over at most eight decades, even if a linear scale would not look black.
        norm: color scale, to share it among maps or to fix its range; None to fit the values.
        smooth: interpolate bilinearly between the centers of patches, on the color scale; for display only. The scale
            and the triangles stay those of the patches.

    Raises:
        ValueError: the map does not have the shape of the layout, or is not finite.
    """
    values = to_array("patch_map", patch_map, layout.grid)
    scale = norm or (log_scale(values) if log else map_scale(values))
    direction = "" if more_is_relevant else f"\n{LESS_IS_RELEVANT}"
    label += direction + scale_name(scale, values, given=norm is not None)
    label += "\ninterpolated between patches" if smooth else ""
    return draw_scaled(axes, prepared, values, layout, scale, label, more_is_relevant, smooth=smooth)


def draw_scaled(
    axes: Axes,
    prepared: PreparedImage,
    values: Array,
    layout: TokenLayout,
    scale: Normalize,
    label: str,
    more_is_relevant: bool,
    *,
    smooth: bool = False,
) -> AxesImage:
    """Draw values (rows, cols) with a given color scale and color bar label."""
    draw_image(axes, prepared, layout, gray=True)
    shown = _smoothed(values, scale, layout) if smooth else values
    image = draw_cells(axes, prepared, layout, paint(shown, scale, more_is_relevant=more_is_relevant))
    draw_clipped(axes, prepared, layout, values, scale)
    mappable = ScalarMappable(scale, color_map(scale, more_is_relevant=more_is_relevant))
    bar = draw_color_bar(axes, mappable, values, _wrapped(label.strip()))
    if not more_is_relevant:
        bar.ax.invert_yaxis()
    return image


def _smoothed(values: Array, scale: Normalize, layout: TokenLayout) -> Array:
    """Interpolate values (rows, cols) to the pixels of the patches' extent.

    On the scale, not the raw values: on a log scale or above a limit, one large value would cover its neighbors.
    """
    shades = np.clip(np.ma.getdata(scale(values)), 0, 1)
    pixels = to_pixels(torch.from_numpy(shades)[None], layout.extent, layout.extent)[0]
    return np.asarray(scale.inverse(pixels.numpy()))


def draw_clipped(
    axes: Axes, prepared: PreparedImage, layout: TokenLayout, values: Array, scale: Normalize
) -> None:
    """Mark patches whose values (rows, cols) are below or above the color scale with small triangles."""
    left, top, right, bottom = prepared.box_of_extent(layout.extent)
    size = (right - left) / layout.cols, (bottom - top) / layout.rows
    for cells, up in zip(clipped(values, scale), (False, True), strict=True):
        if cells.any():
            corners = triangles(cells, up=up) * size + (left, top)
            axes.add_collection(PolyCollection(list(corners), zorder=3, **TRIANGLE), autolim=False)


def draw_color_bar(axes: Axes, mappable: ScalarMappable, values: Array, label: str) -> Colorbar:
    """Draw a color bar on the right of the axes, as high as they are."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("`axes` must belong to a figure, got axes without one.")
    scale: Any = mappable.norm
    place = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = figure.colorbar(mappable, cax=place, extend=_extend(scale, values))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(which="both", labelsize=8)
    bar.ax.yaxis.get_offset_text().set_fontsize(8)
    _set_ticks(bar, scale, values)
    return bar


def _wrapped(label: str) -> str:
    """Wrap long lines of a label, unless it contains math text.

    Example:
        >>> _wrapped("convergence of the tendency (> 0: fields point here)").splitlines()
        ['convergence of the tendency (> 0:', 'fields point here)']
    """
    if "$" in label:
        return label
    return "\n".join(textwrap.fill(line, LABEL_LENGTH, break_long_words=False) for line in label.split("\n"))


def _extend(scale: Normalize, values: Array) -> str:
    """Return at which ends the values exceed the scale, as matplotlib's `extend`."""
    below, above = (bool(cells.any()) for cells in clipped(values, scale))
    return ("both" if above else "min") if below else ("max" if above else "neither")


def _set_ticks(bar: Colorbar, scale: Normalize, values: Array) -> None:
    """Label the single value of a constant map, and only integers if all values are."""
    if isinstance(scale, ConstantScale):
        bar.set_ticks([float(values.flat[0])])
    elif not isinstance(scale, LogNorm) and (values == np.round(values)).all():
        bar.set_ticks(MaxNLocator(integer=True))
