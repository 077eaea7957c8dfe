"""Draw the interactions of one patch: its row of U, its adaptive window and its responsive field.

Source: Ma et al., arXiv 2203.05922, Figs. 1, 3b and 4.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.explain.interaction_uncertainty import patch_index
from vit_interactions.figures.canvas import (
    PATCH_COLOR,
    cell_squares,
    draw_cells,
    draw_image,
    mark_patch,
    patch_edges,
)
from vit_interactions.figures.overlay import draw_map
from vit_interactions.figures.selection import one_image
from vit_interactions.figures.values import pairs_array
from vit_interactions.functional.responsive_field import ResponsiveField
from vit_interactions.functional.windows import window_masks
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.utilities.arrays import Array

WINDOW_COLOR = "#00e5ff"
FIELD_COLOR = "#ffd400"
OUTSIDE = (0.0, 0.0, 0.0, 0.5)
WINDOW_MARGIN = 0.2  # patches between the window's line and the field's
WINDOW_LINE: dict[str, Any] = {"edgecolor": WINDOW_COLOR, "linestyle": "--", "linewidth": 1.8, "fill": False}
DROPPED: dict[str, Any] = {
    "facecolor": (0.0, 0.0, 0.0, 0.7),
    "edgecolor": "0.6",
    "hatch": "//////",
    "linewidth": 0.0,
}


def draw_interactions(
    axes: Axes,
    prepared: PreparedImage,
    uncertainty: Tensor,
    layout: TokenLayout,
    patch: tuple[int, int],
    *,
    name: str = "",
    norm: Normalize | None = None,
) -> AxesImage:
    """Draw one patch's row of U on a log scale: how strongly it interacts with every patch (Fig. 3b).

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        uncertainty: (patches, patches), U of the image.
        layout: token layout of the model, from `token_layout`.
        patch: (row, col) of the query patch.
        name: label next to the patch.
        norm: color scale, to share it among patches; None to fit this patch's row.

    Raises:
        ValueError: shapes do not match, or `patch` is outside the grid.
    """
    pairs_array(uncertainty, layout)
    row = uncertainty[patch_index(patch, layout)].reshape(layout.grid)
    image = draw_map(axes, prepared, row, layout, label="U", log=True, norm=norm)
    mark_patch(axes, prepared, layout, patch, name)
    return image


def draw_field(
    axes: Axes,
    prepared: PreparedImage,
    field: ResponsiveField,
    layout: TokenLayout,
    patch: tuple[int, int],
    *,
    index: int | None = None,
    name: str = "",
) -> None:
    """Draw a patch's relevant patches, its window and the boundary of its responsive field (Figs. 1, 4).

    If the field is the window without dropped patches, its boundary encloses these, and they are hatched.

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        field: the responsive fields of one or several images.
        layout: token layout of the model, from `token_layout`.
        patch: (row, col) of the query patch.
        index: index of the image in `field`; may be None if there is only one.
        name: label next to the patch.

    Raises:
        ValueError: shapes do not match, `patch` is outside the grid, or several images without `index`.
    """
    p, field = patch_index(patch, layout), one_image(field, layout, index)
    inside = field.mask[0, p].reshape(layout.grid).numpy()
    window = window_masks(field.windows, layout.grid)[0, p].reshape(layout.grid).numpy()
    dropped = window & field.dropped[0].reshape(layout.grid).numpy() & ~inside
    enclosed = window if ((inside | dropped) == window).all() else inside
    none = np.zeros(layout.grid, bool)
    relevant = none if field.candidates is None else field.candidates[0, p].reshape(layout.grid).numpy().copy()
    relevant[patch] = False

    draw_image(axes, prepared, layout)
    draw_cells(axes, prepared, layout, np.where(inside[..., None], 0.0, OUTSIDE))
    xs, ys = patch_edges(prepared, layout)
    axes.add_collection(PolyCollection(cell_squares(prepared, layout, dropped), zorder=3, **DROPPED))
    rows, cols = np.nonzero(relevant)
    x, y = (xs[cols] + xs[cols + 1]) / 2, (ys[rows] + ys[rows + 1]) / 2
    axes.scatter(x, y, s=9, color=FIELD_COLOR, edgecolor="black", linewidth=0.5, zorder=7)
    axes.add_collection(LineCollection(_boundary(enclosed, xs, ys), colors=FIELD_COLOR, linewidths=1.8, zorder=6))
    axes.add_patch(_around(field.windows[0, p].tolist(), xs, ys))
    mark_patch(axes, prepared, layout, patch, name)


def draw_field_legend(axes: Axes) -> None:
    """Draw the legend of `draw_field` on separate axes."""
    patch = Line2D([], [], marker="s", linestyle="", markersize=9, color=PATCH_COLOR, fillstyle="none")
    dots = Line2D([], [], marker="o", linestyle="", markersize=4, color=FIELD_COLOR, markeredgecolor="black")
    entries = {
        "the patch": patch,
        "relevant patches $B_p$": dots,
        "adaptive window": Patch(**WINDOW_LINE),
        "responsive field $S_p$": Patch(fill=False, edgecolor=FIELD_COLOR, linewidth=1.8),
        "dropped from the field": Patch(**DROPPED),
    }
    axes.legend(list(entries.values()), list(entries), loc="center", fontsize=9, frameon=False)
    axes.set_axis_off()


def _around(window: list[int], xs: Array, ys: Array) -> Rectangle:
    """Outline a window, slightly outside it; at the edge of the image it may lie outside the axes."""
    left, top, right, bottom = window
    x, y = WINDOW_MARGIN * (xs[1] - xs[0]), WINDOW_MARGIN * (ys[1] - ys[0])
    corner, end = (xs[left] - x, ys[top] - y), (xs[right + 1] + x, ys[bottom + 1] + y)
    return Rectangle(corner, end[0] - corner[0], end[1] - corner[1], zorder=6.5, clip_on=False, **WINDOW_LINE)


def _boundary(cells: Array, xs: Array, ys: Array) -> list[list[tuple[float, float]]]:
    """Return the edges between True cells and all others, holes included."""
    padded = np.pad(cells, 1)
    flat = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    return [
        *([(xs[col], ys[row]), (xs[col + 1], ys[row])] for row, col in flat),
        *([(xs[col], ys[row]), (xs[col], ys[row + 1])] for row, col in upright),
    ]
