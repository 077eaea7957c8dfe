"""A map over patches, of any method, as colours over the photograph."""

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.image import AxesImage
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.canvas import draw_cells, draw_photograph
from vit_interactions.figures.photograph import Photograph
from vit_interactions.figures.values import Array, is_constant, linear_scale, log_scale, scale_name, to_array

COLORS = "inferno"
OPACITY = 0.65
DECADES = 4  # below the largest value; enough to show which patches stand out


def draw_map(
    axes: Axes,
    photograph: Photograph,
    patch_map: Tensor,
    layout: TokenLayout,
    *,
    label: str = "",
    more_is_relevant: bool = True,
    log: bool = False,
) -> AxesImage:
    """Draw a map over patches on the whole photograph, with a colour bar of the raw values.

    Bright means relevant, always: where less is more relevant, the colours and the bar are turned round.

    Args:
        axes: where to draw.
        photograph: from `prepare`.
        patch_map: (rows, cols), finite; an explainer's `patch_map` of one image.
        layout: the model's, from `token_layout`.
        label: what the values are, for the colour bar.
        more_is_relevant: as the explainer says of itself.
        log: scale the colours logarithmically, over at most four decades below the largest value.

    Raises:
        ValueError: a map of another shape than the layout's, or not finite.
    """
    values = to_array("patch_map", patch_map, layout.grid)
    scale = log_scale(values, DECADES) if log else linear_scale(values)
    mappable = ScalarMappable(scale, COLORS if more_is_relevant else f"{COLORS}_r")
    draw_photograph(axes, photograph, layout, grey=True)
    image = draw_cells(axes, photograph, layout, mappable.to_rgba(values, alpha=OPACITY, bytes=True))
    direction = "" if more_is_relevant else "\n(less = more relevant)"
    bar = draw_color_bar(axes, mappable, values, (label + scale_name(scale) + direction).strip())
    if not more_is_relevant:
        bar.ax.invert_yaxis()
    return image


def draw_color_bar(axes: Axes, mappable: ScalarMappable, values: Array, label: str) -> Colorbar:
    """Put a colour bar as high as the axes to their right, with the values that its colours stand for."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("`axes` must belong to a figure, but belongs to none.")
    low = mappable.get_clim()[0]
    below = low is not None and bool(values.min() < low)
    place = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = figure.colorbar(mappable, cax=place, extend="min" if below else "neither")
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(which="both", labelsize=8)
    bar.ax.yaxis.get_offset_text().set_fontsize(8)
    if is_constant(values):
        bar.set_ticks([float(values.flat[0])])
    return bar
