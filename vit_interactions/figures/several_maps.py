"""Show the maps of several methods next to the image."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.explain import Explainer
from vit_interactions.explain.responsive_field_size import ResponsiveFieldSize
from vit_interactions.figures.canvas import draw_image
from vit_interactions.figures.overlay import draw_map
from vit_interactions.figures.sheets import COLUMNS, image_panels
from vit_interactions.figures.sinks import mark_sinks
from vit_interactions.figures.tendency import size_scale
from vit_interactions.figures.values import set_title
from vit_interactions.images.prepared import PreparedImage


def maps_figure(
    prepared: PreparedImage,
    maps: Sequence[tuple[str, type[Explainer], Tensor]],
    layout: TokenLayout,
    *,
    title: str = "",
    sinks: Tensor | None = None,
) -> Figure:
    """Show an image and its maps, four panels per row.

    Args:
        prepared: the image, from `prepare`.
        maps: name, class and map (rows, cols) of each method.
        layout: token layout of the model, from `token_layout`.
        title: figure title, not parsed as math text.
        sinks: (patches,) bool, the attention sinks to mark on the maps; None for unknown.

    Raises:
        ValueError: a map does not have the shape of the layout, or is not finite.
    """
    figure, [first, *others] = image_panels(prepared, layout, 1 + len(maps), COLUMNS, title)
    draw_image(first, prepared, layout)
    for axes, (name, kind, values) in zip(others, maps, strict=False):
        norm = size_scale(layout) if issubclass(kind, ResponsiveFieldSize) else None
        draw_map(
            axes,
            prepared,
            values,
            layout,
            label=kind.quantity,
            more_is_relevant=kind.more_is_relevant,
            norm=norm,
        )
        set_title(axes, name)
        mark_sinks(axes, prepared, layout, sinks)
    return figure
