"""Create the page's Bokeh figures, without data: the browser fills it in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure as bokeh_figure

from vit_interactions.figures.canvas import PATCH_COLOR
from vit_interactions.figures.field import FIELD_COLOR, WINDOW_COLOR
from vit_interactions.figures.tendency import ARROW_COLOR
from vit_interactions.images.placement import Bounds

PALE = "#ffffff"
DARK = "#000000"
SIDES = "left", "right", "top", "bottom"


def image_plot(
    name: str,
    limits: Bounds,
    description: str,
    cell: float,
    *,
    fine: bool,
    sinks: Sequence[tuple[float, float]] = (),
) -> Any:
    """Create a figure of the image with patches on it.

    Args:
        name: prefix of the names of its data sources.
        limits: (left, top, right, bottom) of the visible area, in pixels of the original image.
        description: what the figure shows.
        cell: shorter side of a patch, in pixels of the original image.
        fine: whether to draw thin lines, for many patches.
        sinks: centers (x, y) of the attention sinks, which get an x.
    """
    left, top, right, bottom = limits
    plot = _bare(
        Range1d(start=left, end=right),
        Range1d(start=bottom, end=top),
        (right - left) / (bottom - top),
        description,
    )
    for layer in ("image", "cells"):
        _image(plot, f"{name}_{layer}")
    if name == "field":
        _add_field(plot, cell, fine)
    if name == "tendency":
        _add_arrows(plot, cell, fine)
    if name in ("interactions", "head", "similarity"):
        clipped = _source(f"{name}_clipped", ("xs", "ys"))
        plot.patches("xs", "ys", source=clipped, fill_color=PALE, line_color=DARK, line_width=0.5)
    if sinks:
        _add_sinks(plot, sinks)
    _add_frame(plot, f"{name}_patch")
    return plot


def mosaic_plot(columns: int, lines: int, aspect: float) -> Any:
    """Create the figure of all attention maps side by side.

    Args:
        columns: tiles per line.
        lines: lines of tiles.
        aspect: width / height of a tile.
    """
    plot = _bare(
        Range1d(start=0, end=columns),
        Range1d(start=lines, end=0),
        columns * aspect / lines,
        "attention of layers and heads",
    )
    _image(plot, "mosaic_cells")
    _add_frame(plot, "mosaic_chosen")
    return plot


def _bare(x_range: Range1d, y_range: Range1d, ratio: float, description: str) -> Any:
    """Create a figure without tools or margins that fills the available width and keeps its aspect ratio."""
    plot = bokeh_figure(
        x_range=x_range,
        y_range=y_range,
        aspect_ratio=ratio,
        sizing_mode="stretch_width",
        min_border=0,
        tools="",
        toolbar_location=None,
        name=description,
        outline_line_color=None,
        background_fill_color=None,
        border_fill_color=None,
        min_width=20,
        min_height=20,
    )
    plot.axis.visible = False
    plot.grid.visible = False
    return plot


def _image(plot: Any, name: str) -> None:
    """Add an image of one transparent pixel, which the browser replaces."""
    data: dict[str, Any] = {
        "image": [np.zeros((1, 1), np.uint32)],
        **{side: [0.0] for side in ("x", "y", "dw", "dh")},
    }
    plot.image_rgba("image", "x", "y", "dw", "dh", source=ColumnDataSource(data, name=name))


def _add_frame(plot: Any, name: str) -> None:
    """Add the outline of the selection."""
    source = _source(name, SIDES)
    for color, width in ((PALE, 4.0), (PATCH_COLOR, 2.0)):
        plot.quad(*SIDES, source=source, fill_color=None, line_color=color, line_width=width)


def _add_sinks(plot: Any, sinks: Sequence[tuple[float, float]]) -> None:
    """Mark attention sinks with a small x."""
    xs, ys = zip(*sinks, strict=True)
    for color, width in ((PALE, 3.0), (DARK, 1.2)):
        plot.scatter(xs, ys, marker="x", size=6, line_color=color, line_width=width)


def _source(name: str, columns: Sequence[str]) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=name)


def _add_field(plot: Any, cell: float, fine: bool) -> None:
    """Add what `figures.draw_field` draws, in the same colors."""
    hatch = {
        "hatch_pattern": "/",
        "hatch_color": "#bbbbbb",
        "hatch_alpha": 0.9,
        "hatch_scale": 7,
        "hatch_weight": 1,
    }
    plot.quad(
        *SIDES, source=_source("field_dropped", SIDES), fill_color=DARK, fill_alpha=0.6, line_color=None, **hatch
    )
    boundary = _source("field_boundary", ("x0", "y0", "x1", "y1"))
    for color, width in ((DARK, 0.0 if fine else 3.4), (FIELD_COLOR, 1.0 if fine else 2.0)):
        plot.segment("x0", "y0", "x1", "y1", source=boundary, line_color=color, line_width=width, line_cap="round")
    window = _source("field_window", SIDES)
    plot.quad(*SIDES, source=window, fill_color=None, line_color=DARK, line_width=4)
    plot.quad(*SIDES, source=window, fill_color=None, line_color=WINDOW_COLOR, line_width=2.4, line_dash=[7, 5])
    dots = _source("field_relevant", ("x", "y"))
    plot.circle("x", "y", source=dots, radius=0.16 * cell, fill_color=FIELD_COLOR, line_color=DARK, line_width=0.5)


def _add_arrows(plot: Any, cell: float, fine: bool) -> None:
    """Add one arrow per patch, and that of the selected patch in its color on top."""
    for name, color, line in (("tendency_arrows", ARROW_COLOR, DARK), ("tendency_chosen", PATCH_COLOR, PALE)):
        arrows = _source(name, ("xs", "ys"))
        plot.patches("xs", "ys", source=arrows, fill_color=color, line_color=line, line_width=0.0 if fine else 0.5)
    still = _source("tendency_still", ("x", "y"))
    plot.circle("x", "y", source=still, radius=0.12 * cell, fill_color=ARROW_COLOR, line_color=None)
