"""Draw the features of patches: their similarity to chosen patches, and their principal components as colors."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.explain.interaction_uncertainty import patch_index
from vit_interactions.figures.canvas import draw_cells, draw_image, mark_patch
from vit_interactions.figures.display import linear_scale
from vit_interactions.figures.overlay import draw_map
from vit_interactions.figures.selection import patches_to_draw
from vit_interactions.figures.sheets import image_grid, image_panels
from vit_interactions.figures.values import set_title, to_array
from vit_interactions.functional.feature_pca import COMPONENTS
from vit_interactions.images.prepared import PreparedImage

COLUMNS = 5
CHANNELS = "red", "green", "blue"


def similarity_figure(
    prepared: PreparedImage,
    similarity: Tensor,
    layout: TokenLayout,
    patches: Sequence[tuple[int, int]] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Show the cosine similarity of several patches to all patches, on one color scale.

    Args:
        prepared: the image, from `prepare`.
        similarity: (patches, patches), from `PatchSimilarity.similarity`.
        layout: token layout of the model, from `token_layout`.
        patches: (row, col) per patch; None for patches far apart whose similarities vary most, and the one whose
            similarities vary least.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: shapes do not match, a patch is outside the grid, or `patches` is empty.
    """
    values = to_array("similarity", similarity, (layout.patches, layout.patches))
    chosen = patches_to_draw(similarity, layout, patches)
    indices = [patch_index(patch, layout) for patch in chosen]
    scale = linear_scale(values[indices])
    figure, [first, *panels] = image_panels(prepared, layout, 1 + len(chosen), COLUMNS, title)
    draw_image(first, prepared, layout)
    for number, (patch, index) in enumerate(zip(chosen, indices, strict=True), 1):
        mark_patch(first, prepared, layout, patch, str(number))
        axes = panels[number - 1]
        row = similarity[index].reshape(layout.grid)
        draw_map(axes, prepared, row, layout, label="cosine similarity", norm=scale)
        mark_patch(axes, prepared, layout, patch)
        set_title(axes, f"Patch {number}, row {patch[0]}, col {patch[1]}")
    return figure


def pca_figure(
    prepared: PreparedImage, colors: Tensor, layout: TokenLayout, explained: Tensor, *, title: str = ""
) -> Figure:
    """Show the principal components of the patches' features as colors, next to the image.

    Args:
        prepared: the image, from `prepare`.
        colors: (rows, cols, 3) in [0, 1], from `feature_pca`.
        layout: token layout of the model, from `token_layout`.
        explained: (3,), each component's fraction of the variance, from `principal_components`.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: the colors do not have the shape of the layout, or are not finite.
    """
    shares = to_array("explained", explained, (COMPONENTS,))
    parts = ", ".join(f"{channel} {share:.0%}" for channel, share in zip(CHANNELS, shares, strict=True))
    title = ". ".join(filter(None, (title, f"Variance explained: {parts}")))
    figure, [[image, axes]] = image_grid(prepared, layout, 1, 2, title)
    draw_image(image, prepared, layout)
    draw_colors(axes, prepared, colors, layout)
    return figure


def draw_colors(axes: Axes, prepared: PreparedImage, colors: Tensor, layout: TokenLayout) -> None:
    """Draw one opaque color per patch on the image; see `pca_figure` for the arguments."""
    values = to_array("colors", colors, (*layout.grid, COMPONENTS))
    draw_image(axes, prepared, layout, gray=True)
    draw_cells(axes, prepared, layout, np.clip(values, 0.0, 1.0))
