"""The figures of a comparison: maps beside each other, curves, rankings and how far methods agree."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.plan import CONTROL
from vit_interactions.figures import PreparedImage, draw_image
from vit_interactions.figures.canvas import draw_cells
from vit_interactions.figures.colors import POLICY, map_colors
from vit_interactions.figures.overlay import OPACITY
from vit_interactions.figures.shown import ShownFigure
from vit_interactions.figures.values import Array
from vit_interactions.utilities.text import method_in_words, printable

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison
    from vit_interactions.compare.view import View

LABELS = {"seconds": "time, s", "forwards": "time, forward passes", "peak_memory": "memory, MB"}
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "none": "neither end is better"}
COLOR, CONTROL_COLOR = "#1f83c9", "#808080"  # both can be seen on white and on black
CURVE_COLORS = ("#1f83c9", "#e07b00", "#1a9e77", "#d1495b", "#8f6bd0", "#a6761d", "#d95f9a")
CURVE_LINES = ("-", "--", ":", "-.")
COLUMNS = 8
PANEL = 1.7  # inches
TITLE = 0.4  # inches over a panel
HEAD = 0.6  # inches over all panels
DPI = 150
HIGHEST = 2**16 - 1  # pixels of a picture of matplotlib
NAME_LENGTH = 27  # characters of a line over a photograph
METHOD_LENGTH = 40  # characters of a line of a label
METRIC_LENGTH = 23  # characters of a line over a ranking
TEXT_SIZE = 8  # points


PROBABILITY = "probability of the class"
_SHOWN = ("share of the patches shown", "{score}")
_REMOVED = ("share of the patches removed", "{score}")
_BETWEEN = ("share of the patches removed", "difference in {score}")
CURVE_AXES = {
    "insertion": _SHOWN,
    "token_insertion": _SHOWN,
    "deletion": _REMOVED,
    "token_deletion": _REMOVED,
    "abpc": _BETWEEN,
    "road": _BETWEEN,
    "randomisation": ("share of the stages drawn anew", "rank correlation"),
}


def grid_figure(
    comparison: "Comparison", model: str, keys: Sequence[str] | None = None, methods: Sequence[str] | None = None
) -> Figure:
    """Show photographs x methods, every map at its place on the whole photograph.

    A photograph is followed by its maps, in as many rows as they need. Its title says what the model predicted.

    Args:
        comparison: what was compared.
        model: one of its models.
        keys: of the photographs; None: all that have maps.
        methods: names; None: all that the comparison has.

    Raises:
        ValueError: an unknown model, key or method, no photograph with maps, or more than one picture holds (207 of
            up to 7 methods, 103 of up to 15, 69 of up to 23).
    """
    listed = [photograph["key"] for photograph in comparison.photographs]
    _check_known("keys", keys or (), listed)
    _check_known("methods", methods or (), comparison.methods)
    methods = comparison.methods if methods is None else methods
    chosen = {key: comparison.maps(model, key) for key in (listed if keys is None else keys)}
    chosen = {key: maps for key, maps in chosen.items() if maps}
    if not chosen:
        raise ValueError(f"`keys` must name photographs that have maps of model {model!r}, but none has.")
    columns = min(COLUMNS, 1 + len(methods))
    bands = -(-(1 + len(methods)) // columns)
    fit = int((HIGHEST / DPI - HEAD) / (bands * (PANEL + TITLE)))
    if len(chosen) > fit:
        raise ValueError(
            f"`keys` must be at most {fit} photographs, which with {len(methods)} methods make a picture of "
            f"{HIGHEST:,} pixels, the highest that matplotlib draws, but got {len(chosen)}."
        )
    figure = ShownFigure(figsize=(columns * PANEL, len(chosen) * bands * (PANEL + TITLE) + HEAD), dpi=DPI)
    figure.set_layout_engine("constrained")
    figure.suptitle(
        "\n".join(textwrap.wrap(f"{printable(model)}. {POLICY}", int(columns * PANEL * 15))), fontsize=TEXT_SIZE
    ).set_parse_math(False)
    panels: Any = figure.subplots(len(chosen) * bands, columns, squeeze=False)
    for each in panels.flat:
        each.set_axis_off()
    names = {photograph["key"]: photograph["name"] for photograph in comparison.photographs}
    for number, (key, maps) in enumerate(chosen.items()):
        view = comparison.view(model, key)
        photograph = seen_photograph(comparison, key, view)
        first, *others = panels[number * bands : (number + 1) * bands].flat
        draw_image(first, photograph, view.layout)
        _title(first, f"{_short(names[key])}\n{prediction_text(view)}")
        for method, axes in zip(methods, others, strict=False):
            _title(axes, method_in_words(method) + ("" if method in maps else "\n(no map)"))
            draw_image(axes, photograph, view.layout, grey=True)
            if method in maps:
                draw_cells(axes, photograph, view.layout, _translucent(map_colors(maps[method])))
    return figure


def curves_figure(comparison: "Comparison", model: str, metric: str) -> Figure:
    """Show a metric's curves, the mean over photographs of each method.

    Raises:
        ValueError: an unknown model, or a metric without curves.
    """
    curves = comparison.curves(model, metric)
    if not curves:
        raise ValueError(f"`metric` must be one that has curves, but {metric!r} has none.")
    direction = comparison.directions.get(metric, "none")
    return curves_of(curves, metric, direction, comparison.score_words(model))


def curves_of(curves: Mapping[str, Array], metric: str, direction: str, score: str = PROBABILITY) -> Figure:
    """Draw what `curves_figure` draws from curves (points, 2) by method that are at hand."""
    figure = ShownFigure(figsize=(6.4, 3.4 + 0.06 * len(curves)), dpi=DPI, layout="constrained")
    draw_curves(figure.add_subplot(), curves, metric, direction, score)
    return figure


def ranking_figure(comparison: "Comparison", model: str, metric: str) -> Figure:
    """Show the methods' means with their intervals over photographs, the best above.

    Raises:
        ValueError: a model or metric without any value.
    """
    return ranking_of(comparison.summary(), model, metric)


def ranking_of(summary: pd.DataFrame, model: str, metric: str) -> Figure:
    """Draw what `ranking_figure` draws from a summary that is at hand.

    Raises:
        ValueError: a model or metric without any value.
    """
    rows = summary[(summary["model"] == model) & (summary["metric"] == metric)]
    if rows.empty:
        raise ValueError(f"`metric` must be one that has values for model {model!r}, but {metric!r} has none.")
    figure = ShownFigure(figsize=(3.9, 0.9 + 0.22 * len(rows)), dpi=DPI, layout="constrained")
    draw_ranking(figure.add_subplot(), rows, metric)
    return figure


def agreement_figure(comparison: "Comparison", model: str) -> Figure:
    """Show the mean rank correlation of every two methods' maps; methods that agree stand beside each other.

    Raises:
        ValueError: an unknown model.
    """
    return agreement_of(comparison.agreement(model))


def agreement_of(correlations: pd.DataFrame) -> Figure:
    """Draw what `agreement_figure` draws from correlations (methods, methods) that are at hand."""
    side = 2.0 + 0.33 * len(correlations)
    figure = ShownFigure(figsize=(side + 0.8, side), dpi=DPI, layout="constrained")
    draw_agreement(figure.add_subplot(), correlations)
    return figure


def draw_ranking(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    """Draw means with intervals, the best above, and the random control's as a band.

    Args:
        axes: where to draw.
        rows: of one model and one metric, with the columns of `Comparison.summary`.
        metric: its name.
    """
    direction = str(rows["direction"].iloc[0])
    if metric in COSTS:  # what is no explanation is no example
        rows = rows[rows["method"] != CONTROL]
    rows = rows.assign(fewer=rows["photographs"] < rows["photographs"].max())
    rows = rows.sort_values(["fewer", "mean"], ascending=[False, direction != "lower"], kind="stable")
    places = np.arange(len(rows))
    for place, (method, mean, low, high) in enumerate(
        zip(rows["method"], rows["mean"], rows["low"], rows["high"], strict=True)
    ):
        control = method == CONTROL
        color = CONTROL_COLOR if control else COLOR
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [place, place], color=color, linewidth=2.4, alpha=0.5, solid_capstyle="round")
            if control:
                axes.axvspan(low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(mean, place, marker="D" if control else "o", markersize=5, color=color, linestyle="none")
        if control:
            axes.axvline(mean, color=color, linewidth=1, linestyle="--")
    labels = [_label(m) + " *" * fewer for m, fewer in zip(rows["method"], rows["fewer"], strict=True)]
    axes.set_yticks(places, labels)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    _metric_title(axes, metric, direction)
    axes.tick_params(labelsize=TEXT_SIZE, length=0)
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw_curves(
    axes: Axes, curves: Mapping[str, Array], metric: str, direction: str, score: str = PROBABILITY
) -> None:
    """Draw curves (points, 2) by method, named from the highest on the average to the lowest; `score` words theirs."""
    styles = [(color, line) for line in CURVE_LINES for color in CURVE_COLORS]
    lines = {}
    for number, (name, curve) in enumerate(curves.items()):
        color, line = styles[number % len(styles)] if name != CONTROL else (CONTROL_COLOR, "-")
        width = 2.6 if name == CONTROL else 1.4
        [lines[name]] = axes.plot(*curve.T, color=color, linestyle=line, linewidth=width)
    names = sorted(curves, key=lambda name: _area(curves[name]), reverse=True)
    axes.legend(
        [lines[name] for name in names],
        [_label(name) for name in names],
        fontsize=TEXT_SIZE - 1,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        handlelength=2.6,
    )
    _metric_title(axes, metric, direction)
    across, up = CURVE_AXES.get(metric, ("share", "score"))
    axes.set_xlabel(across, fontsize=TEXT_SIZE)
    axes.set_ylabel(up.format(score=score), fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_agreement(axes: Axes, correlations: pd.DataFrame) -> None:
    """Draw correlations (methods, methods) in [-1, 1], written into their cells; NaN stays blank."""
    names = [str(name) for name in correlations.index]
    values = correlations.to_numpy(np.float64)
    order = alike_together(values)
    values = values[np.ix_(order, order)]
    axes.imshow(values, cmap="RdBu_r", norm=Normalize(-1, 1))
    for row, col in np.argwhere(np.isfinite(values)):
        value = round(values[row, col], 2)
        axes.text(
            col,
            row,
            f"{value:.2f}".replace("0.", ".").replace("1.00", "1").replace("-.00", ".00").replace("-", "−"),
            ha="center",
            va="center",
            fontsize=TEXT_SIZE - 2,
            color="white" if abs(value) > 0.6 else "black",
        )
    labels = [_in_lines(names[i]) for i in order]
    axes.set_xticks(range(len(names)), labels, rotation=50, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(labelsize=TEXT_SIZE, length=0)
    axes.set_title("mean rank correlation", fontsize=TEXT_SIZE + 1)
    for spine in axes.spines.values():
        spine.set_visible(False)


def alike_together(correlations: Array) -> list[int]:
    """Order things so that those of high correlation stand beside each other (average linkage).

    Args:
        correlations: (n, n) in [-1, 1], symmetric; NaN counts as 0.

    Returns:
        A permutation of range(n).

    Example:
        >>> alike_together(np.array([[1, 0, 0.9], [0, 1, 0.1], [0.9, 0.1, 1]])) in ([0, 2, 1], [1, 2, 0])
        True
    """
    if len(correlations) < 3:
        return list(range(len(correlations)))
    distances = 1 - np.nan_to_num(correlations)
    distances = np.clip((distances + distances.T) / 2, 0, 2)
    np.fill_diagonal(distances, 0)
    return [int(i) for i in leaves_list(linkage(squareform(distances), "average", optimal_ordering=True))]


def metric_label(metric: str) -> str:
    """Name a metric or a cost as people read it.

    Example:
        >>> metric_label("pointing_game"), metric_label("seconds")
        ('pointing game', 'time, s')
    """
    return LABELS.get(metric, metric.replace("_", " "))


def seen_photograph(comparison: "Comparison", key: str, view: "View") -> PreparedImage:
    """Put a photograph of a comparison together with where its model's input lies in it."""
    return PreparedImage(comparison.image(key), torch.empty(0, device="cpu"), view.placement)


def prediction_text(view: "View") -> str:
    """Word what a model predicts, and what was explained where that is another class."""
    if view.prediction is None:
        return "no classes"
    if view.explained is None or view.explained.index == view.prediction.index:
        return str(view.prediction)
    return f"{view.prediction} (explained: {view.explained})"


def _short(name: str) -> str:
    """Shorten a name in its middle.

    Example:
        >>> _short("n02123045_a_very_long_name_of_a_file.jpg")
        'n02123045_a_…_of_a_file.jpg'
    """
    half = NAME_LENGTH // 2 - 1
    return name if len(name) <= NAME_LENGTH else f"{name[:half]}…{name[-half - 2 :]}"


def _title(axes: Axes, text: str) -> None:
    lines = [printable(line) for part in text.split("\n") for line in textwrap.wrap(part, NAME_LENGTH)[:3] or [""]]
    axes.set_title("\n".join(lines), fontsize=TEXT_SIZE - 1, parse_math=False, usetex=False)


def _metric_title(axes: Axes, metric: str, direction: str) -> None:
    """Say what is drawn and which end is better, in lines that fit over the narrowest axes."""
    lines = [*textwrap.wrap(printable(metric_label(metric)), METRIC_LENGTH), DIRECTIONS[direction]]
    axes.set_title("\n".join(lines), fontsize=TEXT_SIZE + 1, loc="left", parse_math=False, usetex=False)


def _label(method: str) -> str:
    return _in_lines(method) + (" (control)" if method == CONTROL else "")


def _in_lines(method: str) -> str:
    """Break the name of a method into lines; a "$" stays a dollar."""
    return "\n".join(textwrap.wrap(method_in_words(method).replace(",", ", "), METHOD_LENGTH)).replace("$", r"\$")


def _area(curve: Array) -> float:
    return float((np.diff(curve[:, 0]) * (curve[1:, 1] + curve[:-1, 1])).sum() / 2)


def _translucent(colors: Array) -> Array:
    alpha = np.full((*colors.shape[:2], 1), round(255 * OPACITY), np.uint8)
    return np.concatenate([colors, alpha], -1)


def _check_known(name: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    unknown = [each for each in chosen if each not in known]
    if unknown:
        raise ValueError(f"`{name}` must be among {', '.join(map(str, known))}, but got {unknown[0]!r}.")
