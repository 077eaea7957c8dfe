"""Draw means with confidence intervals, the first of each panel beside its references."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vit_interactions.utilities.arrays import Array

Interval = tuple[float, float, float]  # mean, lower end, upper end

COLOR, REFERENCE_COLOR = "#0072b2", "#666666"
PANEL_WIDTH, LINE_HEIGHT, MARGIN = 2.6, 0.24, 0.75  # inches
TEXT_SIZE = 8  # points


def intervals_figure(rows: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> Figure:
    """Draw a grid of panels, each with one line per mean and its interval.

    Args:
        rows: title of a row of panels -> title of a panel -> label -> (mean, low, high). All rows have the same panels
            and all panels the same labels. The first label of a panel is what the others are compared with. Means that
            are NaN are not drawn.

    Returns:
        The figure. Panels of a column share their horizontal axis.
    """
    first = next(iter(rows.values()))
    labels = list(next(iter(first.values())))
    size = PANEL_WIDTH * len(first) + 1.6, (LINE_HEIGHT * len(labels) + MARGIN) * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    grid: Array = figure.subplots(len(rows), len(first), sharex="col", sharey=True, squeeze=False)
    for panels, (name, row) in zip(grid, rows.items(), strict=True):
        for axes, (title, intervals) in zip(panels, row.items(), strict=True):
            draw_intervals(axes, intervals)
            axes.set_title(title, fontsize=TEXT_SIZE + 1)
        panels[0].set_ylabel(name, fontsize=TEXT_SIZE + 1)
    return figure


def draw_intervals(axes: Axes, intervals: Mapping[str, Interval]) -> None:
    """Draw one line per mean, from top to bottom, with the first one's interval as a band behind all.

    Args:
        axes: axes to draw on.
        intervals: label -> (mean, low, high).
    """
    for place, (mean, low, high) in enumerate(intervals.values()):
        color = REFERENCE_COLOR if place else COLOR
        if place == 0:
            axes.axvspan(low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot([low, high], [place, place], color=color, linewidth=1.5)
        axes.plot([mean], [place], color=color, marker="o", markersize=4)
    axes.set_yticks(range(len(intervals)), list(intervals), fontsize=TEXT_SIZE)
    axes.set_ylim(len(intervals) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(axis="x", alpha=0.3)
