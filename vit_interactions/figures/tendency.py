"""Draw the responsive fields of all patches at once: their sizes and tendencies.

Source: Ma et al., arXiv 2203.05922, Figs. 7, 11 and 12.
"""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.quiver import Quiver
from torch import Tensor
from torchvision.utils import flow_to_image

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.canvas import draw_cells, draw_image, patch_centers, patch_edges
from vit_interactions.figures.overlay import draw_scaled
from vit_interactions.figures.values import to_array
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.utilities.arrays import Array

ARROW_COLOR = "#ffd400"
ARROW_LENGTH = 0.8  # patches
SIZE_LABEL = "patches in the field\n(lower is more relevant,\nas in the paper)"


def draw_field_size(axes: Axes, prepared: PreparedImage, size: Tensor, layout: TokenLayout) -> AxesImage:
    """Draw the size of each patch's responsive field (Figs. 7c, 12); small fields are bright.

    The color scale always ranges from 1 to the number of patches, so that similar sizes look alike in every image.

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        size: (rows, cols), `ResponsiveField.size` of one image.
        layout: token layout of the model, from `token_layout`.

    Raises:
        ValueError: `size` does not have the shape of the layout's grid.
    """
    values = to_array("size", size, layout.grid)
    return draw_scaled(axes, prepared, values, layout, size_scale(layout), SIZE_LABEL, more_is_relevant=False)


def size_scale(layout: TokenLayout) -> Normalize:
    """Return the color scale of field sizes: from 1 to the number of patches, so that images can be compared."""
    return Normalize(1, max(layout.patches, 2))


def draw_tendency_arrows(axes: Axes, prepared: PreparedImage, tendency: Tensor, layout: TokenLayout) -> Quiver:
    """Draw one arrow per patch in the direction of its tendency, or a dot if it has none (Fig. 11).

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        tendency: (rows, cols, 2), x to the right and y down; `ResponsiveField.tendency` of one image.
        layout: token layout of the model, from `token_layout`.

    Raises:
        ValueError: `tendency` does not have the shape of the layout's grid, or is not finite.
    """
    vectors = to_array("tendency", tendency, (*layout.grid, 2))
    draw_image(axes, prepared, layout, gray=True)
    draw_cells(axes, prepared, layout, np.broadcast_to((0.0, 0.0, 0.0, 0.55), (*layout.grid, 4)))
    xs, ys = patch_edges(prepared, layout)
    x, y = np.meshgrid(*patch_centers(prepared, layout))
    # If the aspect ratio was not kept, patches are not square on the original image.
    lengths = ARROW_LENGTH * vectors * (xs[1] - xs[0], ys[1] - ys[0])
    still = (vectors == 0).all(-1)
    axes.scatter(x[still], y[still], s=3, color=ARROW_COLOR, linewidth=0, zorder=3)
    return axes.quiver(
        x[~still],
        y[~still],
        *lengths[~still].T,
        color=ARROW_COLOR,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        pivot="middle",
        units="xy",
        width=0.1 * min(xs[1] - xs[0], ys[1] - ys[0]),
        headwidth=4.0,
        headlength=4.0,
        headaxislength=3.6,
        minlength=0.0,
        zorder=3,
    )


def draw_tendency_flow(axes: Axes, prepared: PreparedImage, tendency: Tensor, layout: TokenLayout) -> AxesImage:
    """Draw the tendencies as optical-flow colors, one per patch (Figs. 7, 11), with a color wheel.

    Args:
        axes: axes to draw on.
        prepared: the image, from `prepare`.
        tendency: same as in `draw_tendency_arrows`.
        layout: token layout of the model, from `token_layout`.

    Raises:
        ValueError: `tendency` does not have the shape of the layout's grid, or is not finite.
    """
    vectors = to_array("tendency", tendency, (*layout.grid, 2))
    draw_image(axes, prepared, layout)
    draw_color_wheel(axes.inset_axes((1.16, 0.36, 0.28, 0.28)))
    return draw_cells(axes, prepared, layout, flow_colors(vectors))


def draw_color_wheel(axes: Axes) -> AxesImage:
    """Draw the legend of the flow colors: each direction in its color."""
    steps = np.linspace(-1, 1, 201)
    vectors = np.stack(np.meshgrid(steps, steps), axis=-1)
    inside = np.linalg.norm(vectors, axis=-1) <= 1
    colors = flow_colors(np.where(inside[..., None], vectors, 0.0))
    wheel = np.concatenate([colors, np.where(inside, 255, 0)[..., None].astype(np.uint8)], axis=-1)
    image = axes.imshow(wheel, extent=(-1, 1, 1, -1), origin="upper")
    for word, x, y, ha, va in (
        ("right", 1.1, 0, "left", "center"),
        ("left", -1.1, 0, "right", "center"),
        ("up", 0, -1.1, "center", "bottom"),
        ("down", 0, 1.1, "center", "top"),
        ("white:\nno tendency", 0, 2.0, "center", "top"),
    ):
        axes.text(x, y, word, ha=ha, va=va, fontsize=8)
    axes.set_axis_off()
    return image


def flow_colors(vectors: Array) -> Array:
    """Map vectors (rows, cols, 2) to the colors of torchvision's `flow_to_image`: (rows, cols, 3) uint8."""
    flow = torch.from_numpy(vectors).float().permute(2, 0, 1)
    colors: Array = flow_to_image(flow).permute(1, 2, 0).numpy()
    return colors
