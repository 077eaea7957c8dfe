"""Draw the windows that WinfT predicts for one patch, layer by layer.

Source: Ma et al., arXiv 2203.05922, Fig. 13, which shows their sum over the layers.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.explain.interaction_uncertainty import patch_index
from vit_interactions.figures.canvas import draw_cells, draw_image, mark_patch
from vit_interactions.figures.field import OUTSIDE
from vit_interactions.figures.overlay import draw_map
from vit_interactions.figures.sheets import image_panels
from vit_interactions.figures.values import set_title, to_array
from vit_interactions.images.prepared import PreparedImage

COLUMNS = 5


def draw_window(
    axes: Axes, prepared: PreparedImage, mask: Tensor, layout: TokenLayout, patch: tuple[int, int]
) -> None:
    """Darken the patches outside one patch's window.

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        mask: (patches, patches) bool, the windows of one layer and image.
        layout: token layout of the model, from `token_layout`.
        patch: (row, col) of the query patch.

    Raises:
        ValueError: `mask` does not match the layout, or `patch` is outside the grid.
    """
    inside = to_array("mask", mask, (layout.patches, layout.patches))[patch_index(patch, layout)]
    draw_image(axes, prepared, layout)
    draw_cells(axes, prepared, layout, np.where(inside.reshape(*layout.grid, 1), 0.0, OUTSIDE))
    mark_patch(axes, prepared, layout, patch)


def windows_figure(
    prepared: PreparedImage, masks: Tensor, layout: TokenLayout, patch: tuple[int, int], *, title: str = ""
) -> Figure:
    """Show one patch's window in every layer, and in how many layers each patch is inside it (Fig. 13).

    The title of each layer gives the size of this window and E_O, the total size of the windows of all patches.

    Args:
        prepared: the image, from `prepare`.
        masks: (layers, patches, patches) bool, windows of one image, e.g. `torch.stack(record.masks)[:, 0]`.
        layout: token layout of the model, from `token_layout`.
        patch: (row, col) of the query patch.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: `masks` do not match the layout, or `patch` is outside the grid.
    """
    layers, pairs = len(masks), layout.patches**2
    to_array("masks", masks, (layers, layout.patches, layout.patches))
    row = masks[:, patch_index(patch, layout)]
    figure, panels = image_panels(prepared, layout, layers + 1, COLUMNS, title)
    votes = row.sum(0).reshape(layout.grid)
    label = "blocks whose window contains it"
    draw_map(panels[0], prepared, votes, layout, label=label, norm=Normalize(0, layers))
    mark_patch(panels[0], prepared, layout, patch)
    set_title(panels[0], f"Sum over {layers} blocks")
    for number, (panel, mask) in enumerate(zip(panels[1:], masks, strict=False), start=1):
        draw_window(panel, prepared, mask, layout, patch)
        size, operations = int(row[number - 1].sum()), int(mask.sum())
        share = f"$E_O$ {operations:,} ({operations / pairs:.0%})"
        panel.set_title(f"Block {number}: {size} of {layout.patches} patches\n{share}", fontsize=9)
    return figure
