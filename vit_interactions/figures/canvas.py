"""Draw the original image, on which everything else is drawn in its pixel coordinates: x to the right, y down."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from PIL import Image, ImageOps

from vit_interactions.attention import TokenLayout
from vit_interactions.explain.interaction_uncertainty import patch_index
from vit_interactions.images.placement import Bounds, around_both
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.utilities.arrays import Array

LONGEST = 1600  # pixels of the longer side as drawn; more would only slow matplotlib down
PATCH_COLOR = "#ff2d2d"
HALO = withStroke(linewidth=3.0, foreground="white")


def draw_image(axes: Axes, prepared: PreparedImage, layout: TokenLayout, *, gray: bool = False) -> None:
    """Draw the whole image, with the part that no patch covers faded and a frame around the patches.

    Args:
        axes: axes to draw on; its limits are set to contain the image and all patches.
        prepared: the image, from `prepare`.
        layout: token layout of the model, from `token_layout`.
        gray: draw in pale gray, as a background for colors.
    """
    width, height = prepared.image.size
    left, top, right, bottom = prepared.box_of_extent(layout.extent)
    # If the input was padded, patches extend beyond the image.
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, facecolor="0.85", zorder=0.5))
    axes.imshow(_displayed(prepared.image, gray), extent=(0, width, height, 0), origin="upper", zorder=1)
    seen = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
    axes.add_patch(_frame((0, 0, width, height), seen))
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="black", linewidth=0.8, zorder=6)
    )
    left, top, right, bottom = around_both(prepared.image.size, (left, top, right, bottom))
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_axis_off()


def draw_cells(axes: Axes, prepared: PreparedImage, layout: TokenLayout, colors: Array) -> AxesImage:
    """Draw one color per patch.

    Args:
        axes: axes with the image drawn on it.
        prepared: the image, from `prepare`.
        layout: token layout of the model.
        colors: (rows, cols, 3 or 4): RGB or RGBA, uint8 or in [0, 1].
    """
    left, top, right, bottom = prepared.box_of_extent(layout.extent)
    return axes.imshow(
        colors, extent=(left, right, bottom, top), origin="upper", interpolation="nearest", zorder=2
    )


def patch_edges(prepared: PreparedImage, layout: TokenLayout) -> tuple[Array, Array]:
    """Return x of the cols + 1 patch edges and y of the rows + 1, in pixels of the original image."""
    left, top, right, bottom = prepared.box_of_extent(layout.extent)
    return np.linspace(left, right, layout.cols + 1), np.linspace(top, bottom, layout.rows + 1)


def patch_centers(prepared: PreparedImage, layout: TokenLayout) -> tuple[Array, Array]:
    """Return x of the columns' centers and y of the rows' centers, in pixels of the original image."""
    xs, ys = patch_edges(prepared, layout)
    return (xs[:-1] + xs[1:]) / 2, (ys[:-1] + ys[1:]) / 2


def cell_squares(prepared: PreparedImage, layout: TokenLayout, cells: Array) -> list[list[tuple[float, float]]]:
    """Return the corners of each True cell of (rows, cols), in pixels of the original image."""
    xs, ys = patch_edges(prepared, layout)
    return [
        [(xs[col], ys[row]), (xs[col + 1], ys[row]), (xs[col + 1], ys[row + 1]), (xs[col], ys[row + 1])]
        for row, col in np.argwhere(cells)
    ]


def mark_patch(
    axes: Axes, prepared: PreparedImage, layout: TokenLayout, patch: tuple[int, int], name: str = ""
) -> None:
    """Outline a patch and optionally write a name next to it.

    Raises:
        ValueError: `patch` is outside the grid.
    """
    patch_index(patch, layout)
    left, top, right, bottom = prepared.patch_box(*patch, layout)
    outline = Rectangle(
        (left, top), right - left, bottom - top, fill=False, edgecolor=PATCH_COLOR, linewidth=1.6, zorder=8
    )
    outline.set_path_effects([HALO])
    axes.add_patch(outline)
    if not name:
        return
    # On the right of the patch, except in the last column.
    at_left = patch[1] < layout.cols - 1
    text = axes.text(
        right if at_left else left,
        (top + bottom) / 2,
        f" {name} ",
        color=PATCH_COLOR,
        fontsize=10,
        fontweight="bold",
        ha="left" if at_left else "right",
        va="center",
        zorder=9,
    )
    text.set_path_effects([HALO])


def _displayed(image: Image.Image, gray: bool) -> Array:
    image = image.copy()
    image.thumbnail((LONGEST, LONGEST))
    if not gray:
        return np.asarray(image)
    return np.asarray(ImageOps.grayscale(image).point(lambda value: 0.75 * value + 50).convert("RGB"))


def _frame(outer: Bounds, inner: Bounds) -> PathPatch:
    """Create a pale frame between two rectangles; the inner path runs in reverse, which leaves it open."""
    left, top, right, bottom = outer
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    left, top, right, bottom = inner
    corners += [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * 2
    return PathPatch(Path(corners, codes), facecolor="white", alpha=0.7, linewidth=0, zorder=5)
