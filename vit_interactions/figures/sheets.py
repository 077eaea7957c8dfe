"""Complete figures of one image, ready to save."""

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.explain.interaction_curve import InteractionCurve
from vit_interactions.explain.interaction_uncertainty import patch_index
from vit_interactions.figures.canvas import draw_image, mark_patch
from vit_interactions.figures.curve import draw_curve
from vit_interactions.figures.display import log_scale
from vit_interactions.figures.field import draw_field, draw_field_legend, draw_interactions
from vit_interactions.figures.overlay import draw_map
from vit_interactions.figures.pairs import draw_column_variances, draw_dropped, draw_pairs
from vit_interactions.figures.selection import one_image, patches_to_draw
from vit_interactions.figures.shown import ShownFigure
from vit_interactions.figures.sinks import mark_sinks
from vit_interactions.figures.tendency import draw_field_size, draw_tendency_arrows, draw_tendency_flow
from vit_interactions.figures.values import pairs_array, set_title, text_width
from vit_interactions.functional.indiscriminative import indiscriminative_patches
from vit_interactions.functional.responsive_field import ResponsiveField
from vit_interactions.images.placement import around_both
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.utilities.text import printable

PANEL = 2.8  # inches
BAR = 0.7  # inches for a color bar
COLUMNS = 4
TITLE_SIZE = 11  # points
SEEN = "Framed: model input"
CHOICE = "Patches: the most discriminative ones, far\napart; last, the least discriminative one"
PAPER_BETAS = (0.07, 0.20, 0.50)


def interaction_figure(
    prepared: PreparedImage,
    uncertainty: Tensor,
    field: ResponsiveField,
    layout: TokenLayout,
    patches: Sequence[tuple[int, int]] | None = None,
    *,
    index: int | None = None,
    sinks: Tensor | None = None,
    exclude: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Show the interactions of several patches: rows of U, windows and responsive fields (Figs. 1, 3b, 4).

    All rows of U share one color scale, so that patches can be compared.

    Args:
        prepared: the image, from `prepare`.
        uncertainty: (patches, patches), U of the image.
        field: the responsive fields of one or several images.
        layout: token layout of the model, from `token_layout`.
        patches: (row, col) per patch; None for those of `choose_patches`.
        index: index of the image in `field`; may be None if there is only one.
        sinks: (patches,) bool, attention sinks to mark; None for none.
        exclude: (1, patches) bool, patches that are not chosen; see `choose_patches`.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: shapes do not match, a patch is outside the grid, `patches` is empty, or several images
            without `index`.
    """
    field = one_image(field, layout, index)
    chosen = patches_to_draw(uncertainty, layout, patches, exclude)
    norm = log_scale(pairs_array(uncertainty, layout)[[patch_index(patch, layout) for patch in chosen]])
    columns = min(len(chosen), 2 if _is_wide(prepared, layout) else COLUMNS)
    bands = -(-len(chosen) // columns)
    figure, axes = image_grid(prepared, layout, 2 * bands, 1 + columns, title)
    draw_image(axes[0][0], prepared, layout)
    set_title(axes[0][0], SEEN)
    if patches is None:
        axes[0][0].text(0.5, -0.03, CHOICE, fontsize=8, ha="center", va="top", transform=axes[0][0].transAxes)
    draw_field_legend(axes[1][0])
    for number, patch in enumerate(chosen):
        band, column = divmod(number, columns)
        name = str(number + 1)
        mark_patch(axes[0][0], prepared, layout, patch, name)
        above, below = axes[2 * band][1 + column], axes[2 * band + 1][1 + column]
        draw_interactions(above, prepared, uncertainty, layout, patch, norm=norm)
        mark_sinks(above, prepared, layout, sinks)
        set_title(above, f"Patch {name}, row {patch[0]}, col {patch[1]}")
        draw_field(below, prepared, field, layout, patch)
        size = int(field.size[0, patch[0] * layout.cols + patch[1]])
        set_title(below, f"Field: {size} of {layout.patches} patches")
    return figure


def field_figure(
    prepared: PreparedImage,
    field: ResponsiveField,
    layout: TokenLayout,
    *,
    index: int | None = None,
    title: str = "",
) -> Figure:
    """Show the sizes and tendencies of the responsive fields, as arrows and as flow colors (Figs. 7, 11, 12).

    Args:
        prepared: the image, from `prepare`.
        field: the responsive fields of one or several images.
        layout: token layout of the model, from `token_layout`.
        index: index of the image in `field`; may be None if there is only one.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: shapes do not match, or several images without `index`.
    """
    field = one_image(field, layout, index)
    tendency = field.tendency[0].reshape(*layout.grid, 2)
    columns = 2 if _is_wide(prepared, layout) else 4
    figure, axes = image_panels(prepared, layout, 4, columns, title)
    draw_image(axes[0], prepared, layout)
    draw_field_size(axes[1], prepared, field.size[0].reshape(layout.grid), layout)
    draw_tendency_arrows(axes[2], prepared, tendency, layout)
    draw_tendency_flow(axes[3], prepared, tendency, layout)
    for each, name in zip(axes, (SEEN, "Field size", "Field tendency", "Field tendency, as flow"), strict=True):
        set_title(each, name)
    return figure


def indiscriminative_figure(
    prepared: PreparedImage,
    uncertainty: Tensor,
    layout: TokenLayout,
    betas: Sequence[float] = PAPER_BETAS,
    *,
    chosen: float | None = None,
    exclude: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Show U, the variances of its columns and the patches dropped for several β (Figs. 5, 6).

    Args:
        prepared: the image, from `prepare`.
        uncertainty: (patches, patches), U of the image.
        layout: token layout of the model, from `token_layout`.
        betas: fractions of patches to drop, each in [0, 1].
        chosen: the β in use, marked in the figure; added to `betas` if missing.
        exclude: (1, patches) bool, patches that are not ranked; see `indiscriminative_patches`.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: shapes do not match, or a β is outside [0, 1].
    """
    if chosen is not None and chosen not in betas:
        betas = sorted([*betas, chosen])
    width, height = _panel(prepared, layout)
    columns = 1 + len(betas)
    width = max(columns * (width - BAR), 8.5)
    figure = _figure(width, PANEL + 0.5 + height, title)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(PANEL + 0.5, height))[:, 0]
    pairs, variances = above.subplots(1, 2, width_ratios=(PANEL + 1.4, width - PANEL - 1.4))
    draw_pairs(pairs, uncertainty)
    set_title(pairs, "U of all pairs of patches")
    draw_column_variances(variances, uncertainty, betas, exclude)
    set_title(variances, "Variance of the columns of U")
    images = below.subplots(1, columns, squeeze=False)[0]
    draw_image(images[0], prepared, layout)
    set_title(images[0], SEEN)
    for axes, beta in zip(images[1:], betas, strict=True):
        dropped = indiscriminative_patches(uncertainty.unsqueeze(0), beta, exclude)
        draw_dropped(axes, prepared, dropped.reshape(layout.grid), layout)
        mark = " (chosen)" if beta == chosen else ""
        set_title(axes, f"β = {beta:g}{mark}: {int(dropped.sum())} of {layout.patches} dropped")
    return figure


def map_figure(
    prepared: PreparedImage,
    patch_map: Tensor,
    layout: TokenLayout,
    *,
    title: str = "",
    label: str = "",
    more_is_relevant: bool = True,
    norm: Normalize | None = None,
    sinks: Tensor | None = None,
    smooth: bool = False,
) -> Figure:
    """Show the patch map of one method next to the image.

    Args:
        prepared: the image, from `prepare`.
        patch_map: (rows, cols); from an explainer's `patch_map`.
        layout: token layout of the model, from `token_layout`.
        title: figure title, not parsed as math text.
        label: color bar label.
        more_is_relevant: the explainer's attribute of that name.
        norm: color scale, to fix its range; None to fit the values.
        sinks: (patches,) bool, attention sinks to mark; None for none.
        smooth: interpolate the map between patches; see `draw_map`.

    Raises:
        ValueError: the map does not have the shape of the layout, or is not finite.
    """
    figure, [axes] = image_grid(prepared, layout, 1, 2, title)
    draw_image(axes[0], prepared, layout)
    draw_map(
        axes[1],
        prepared,
        patch_map,
        layout,
        label=label,
        more_is_relevant=more_is_relevant,
        norm=norm,
        smooth=smooth,
    )
    mark_sinks(axes[1], prepared, layout, sinks)
    return figure


def curve_figure(
    curve: InteractionCurve, *, scale: Literal["linear", "log"] = "linear", title: str = ""
) -> Figure:
    """Show E_O against α.

    Args:
        curve: from `interaction_curve`.
        scale: scale of the vertical axis.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: the curve contains no image, or `scale` is unknown.
    """
    figure = _figure(5.5, 3.8, title)
    draw_curve(figure.add_subplot(), curve, scale=scale)
    return figure


def _figure(width: float, height: float, title: str) -> Figure:
    """Create a figure (inches), higher by the lines of its wrapped title."""
    lines = _wrapped(printable(title), 0.9 * width)
    figure = ShownFigure(figsize=(width, height + 0.25 * len(lines)), dpi=150, layout="constrained")
    if lines:
        figure.suptitle("\n".join(lines), fontsize=TITLE_SIZE, parse_math=False, usetex=False)
    return figure


def _wrapped(text: str, width: float) -> list[str]:
    """Wrap text to lines of at most about `width` inches."""
    length = text_width(text, TITLE_SIZE) / 72
    return textwrap.wrap(text, max(1, int(len(text) * width / length))) if length else []


def _aspect(prepared: PreparedImage, layout: TokenLayout) -> float:
    """Return width / height of the image and all patches."""
    left, top, right, bottom = around_both(prepared.image.size, prepared.box_of_extent(layout.extent))
    return (right - left) / (bottom - top)


def _is_wide(prepared: PreparedImage, layout: TokenLayout) -> bool:
    return _aspect(prepared, layout) > 1.2


def _panel(prepared: PreparedImage, layout: TokenLayout) -> tuple[float, float]:
    """Return width and height in inches of a panel with color bar and title; all have about the same area."""
    root: float = min(max(_aspect(prepared, layout), 0.25), 4.0) ** 0.5
    return PANEL * root + BAR, PANEL / root + 0.3


def image_grid(
    prepared: PreparedImage, layout: TokenLayout, rows: int, columns: int, title: str
) -> tuple[Figure, list[list[Axes]]]:
    """Create a figure with a grid of blank panels."""
    width, height = _panel(prepared, layout)
    figure = _figure(columns * width, rows * height, title)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    return figure, axes.tolist()


def image_panels(
    prepared: PreparedImage, layout: TokenLayout, count: int, columns: int, title: str
) -> tuple[Figure, list[Axes]]:
    """Create a figure with at least `count` blank panels in reading order, in rows of at most `columns`."""
    columns = min(columns, count)
    figure, grid = image_grid(prepared, layout, -(-count // columns), columns, title)
    return figure, [axes for row in grid for axes in row]
