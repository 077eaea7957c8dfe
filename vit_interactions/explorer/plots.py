"""The page's drawings as Bokeh figures: what there is to draw on, empty; the browser fills in the data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure as bokeh_figure

from vit_interactions.figures.canvas import PATCH_COLOR
from vit_interactions.figures.field import FIELD_COLOR, WINDOW_COLOR
from vit_interactions.figures.tendency import ARROW_COLOR
from vit_interactions.images.placement import Box

PALE = "#ffffff"
DARK = "#000000"
SIDES = "left", "right", "top", "bottom"


def image_plot(name: str, limits: Box, description: str, cell: float, *, fine: bool) -> Any:
    """Make a figure that shows a photograph with patches on it.

    Args:
        name: the beginning of the names of its data sources.
        limits: (left, top, right, bottom) of what is shown, in pixels of the photograph.
        description: in words, what is drawn.
        cell: the shorter side of a patch, in pixels of the photograph.
        fine: whether patches are so many that lines must be thin.
    """
    left, top, right, bottom = limits
    plot = _bare(
        Range1d(start=left, end=right),
        Range1d(start=bottom, end=top),
        (right - left) / (bottom - top),
        description,
    )
    for layer in ("photograph", "cells"):
        _image(plot, f"{name}_{layer}")
    if name == "field":
        _add_field(plot, cell, fine)
    if name == "tendency":
        _add_arrows(plot, cell, fine)
    _add_frame(plot, f"{name}_patch")
    return plot


def mosaic_plot(columns: int, lines: int, aspect: float) -> Any:
    """Make the figure of all attention maps side by side.

    Args:
        columns: tiles in a line.
        lines: of tiles.
        aspect: width over height of one tile.
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
    """A figure without tools or margins that is as wide as its place and keeps its shape."""
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
    """Add a picture of one transparent pixel; the browser puts another in its place."""
    nothing: dict[str, Any] = {
        "image": [np.zeros((1, 1), np.uint32)],
        "x": [0.0],
        "y": [0.0],
        "dw": [0.0],
        "dh": [0.0],
    }
    plot.image_rgba("image", "x", "y", "dw", "dh", source=ColumnDataSource(nothing, name=name))


def _add_frame(plot: Any, name: str) -> None:
    """Add the outline of what is chosen."""
    source = _quads(name)
    for color, width in ((PALE, 4.0), (PATCH_COLOR, 2.0)):
        plot.quad(*SIDES, source=source, fill_color=None, line_color=color, line_width=width)


def _quads(name: str) -> ColumnDataSource:
    return _source(name, SIDES)


def _source(name: str, columns: Sequence[str]) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=name)


def _add_field(plot: Any, cell: float, fine: bool) -> None:
    """Add what `figures.draw_field` draws, in its colours."""
    hatch = {
        "hatch_pattern": "/",
        "hatch_color": "#bbbbbb",
        "hatch_alpha": 0.9,
        "hatch_scale": 7,
        "hatch_weight": 1,
    }
    plot.quad(*SIDES, source=_quads("field_dropped"), fill_color=DARK, fill_alpha=0.6, line_color=None, **hatch)
    boundary = _source("field_boundary", ("x0", "y0", "x1", "y1"))
    for color, width in ((DARK, 0.0 if fine else 3.4), (FIELD_COLOR, 1.0 if fine else 2.0)):
        plot.segment("x0", "y0", "x1", "y1", source=boundary, line_color=color, line_width=width, line_cap="round")
    window = _quads("field_window")
    plot.quad(*SIDES, source=window, fill_color=None, line_color=DARK, line_width=4)
    plot.quad(*SIDES, source=window, fill_color=None, line_color=WINDOW_COLOR, line_width=2.4, line_dash=[7, 5])
    dots = _source("field_relevant", ("x", "y"))
    plot.circle("x", "y", source=dots, radius=0.16 * cell, fill_color=FIELD_COLOR, line_color=DARK, line_width=0.5)


def _add_arrows(plot: Any, cell: float, fine: bool) -> None:
    """Add an arrow a patch, and the chosen patch's own in its colour above them."""
    for name, color, line in (("tendency_arrows", ARROW_COLOR, DARK), ("tendency_chosen", PATCH_COLOR, PALE)):
        arrows = _source(name, ("xs", "ys"))
        plot.patches("xs", "ys", source=arrows, fill_color=color, line_color=line, line_width=0.0 if fine else 0.5)
    still = _source("tendency_still", ("x", "y"))
    plot.circle("x", "y", source=still, radius=0.12 * cell, fill_color=ARROW_COLOR, line_color=None)
