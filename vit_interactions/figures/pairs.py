"""Draw all pairs of patches: U, the variances of its columns, and the patches dropped for varying least.

Source: Ma et al., arXiv 2203.05922, Figs. 5 and 6.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.canvas import cell_squares, draw_cells, draw_image
from vit_interactions.figures.display import color_map, is_constant, log_scale, scale_name
from vit_interactions.figures.overlay import draw_color_bar
from vit_interactions.figures.values import to_array
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.utilities.checks import check_fraction

DROPPED_EDGE: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.75", "linewidth": 0.6}
CUT_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def draw_pairs(axes: Axes, uncertainty: Tensor) -> AxesImage:
    """Draw U as an image (Fig. 5a), one row per query patch and one column per key patch.

    U is heavy-tailed, so the color scale is logarithmic, with robust limits, over at most eight decades.

    Args:
        axes: axes to draw on.
        uncertainty: (patches, patches), U of one image.

    Raises:
        ValueError: `uncertainty` is not square or is not finite.
    """
    patches = uncertainty.shape[0]
    values = to_array("uncertainty", uncertainty, (patches, patches))
    scale = log_scale(values)
    image = axes.imshow(values, cmap=color_map(scale), norm=scale, origin="upper", interpolation="nearest")
    axes.set_xlabel("key patch", fontsize=9)
    axes.set_ylabel("query patch", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    draw_color_bar(axes, image, values, "U" + scale_name(scale, values))
    return image


def draw_column_variances(
    axes: Axes, uncertainty: Tensor, betas: Sequence[float] = (), exclude: Tensor | None = None
) -> None:
    """Draw the sorted variances of the columns of U and the cut for each β (Fig. 5b).

    Args:
        axes: axes to draw on.
        uncertainty: (patches, patches), U of one image.
        betas: fractions of patches to drop, each in [0, 1].
        exclude: (1, patches) bool, patches that are not ranked; see `indiscriminative_patches`.

    Raises:
        ValueError: `uncertainty` is not square or is not finite, or a β is outside [0, 1].
    """
    patches = uncertainty.shape[0]
    ranked = np.ones(patches, bool) if exclude is None else ~exclude[0].cpu().numpy()
    variances = np.sort(to_array("uncertainty", uncertainty, (patches, patches)).var(0)[ranked])
    axes.plot(np.arange(1, len(variances) + 1), variances, color="black", linewidth=1.5)
    if variances[0] > 0 and not is_constant(variances):
        axes.set_yscale("log")
    for number, beta in enumerate(betas):
        check_fraction("betas", beta)
        dropped = round(beta * patches)
        color = CUT_COLORS[number % len(CUT_COLORS)]
        axes.axvline(
            dropped + 0.5, color=color, linestyle="--", linewidth=1.2, label=f"β = {beta:g}: {dropped} dropped"
        )
    axes.set_xlim(1, max(patches, 2))
    axes.set_xlabel("patches, lowest variance first", fontsize=9)
    axes.set_ylabel("variance of the patch's column of U", fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if betas:
        axes.legend(fontsize=8, loc="upper left", framealpha=1.0)


def draw_dropped(axes: Axes, prepared: PreparedImage, dropped: Tensor, layout: TokenLayout) -> AxesImage:
    """Black out patches of the image (Figs. 5c, 6), with light edges so that they can be seen on a dark image.

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        dropped: (rows, cols) bool.
        layout: token layout of the model, from `token_layout`.

    Raises:
        ValueError: `dropped` does not have the shape of the layout's grid.
    """
    black = to_array("dropped", dropped, layout.grid) != 0
    draw_image(axes, prepared, layout)
    colors = np.zeros((*layout.grid, 4))
    colors[..., 3] = black
    edges = PolyCollection(cell_squares(prepared, layout, black), zorder=6.5, **DROPPED_EDGE)
    axes.add_collection(edges)
    return draw_cells(axes, prepared, layout, colors)
