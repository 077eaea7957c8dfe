"""Figures of a comparison: maps side by side, curves, rankings and agreement."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.results import Results
from vit_interactions.compare.summary import BASELINE
from vit_interactions.figures import PreparedImage, draw_image
from vit_interactions.figures.canvas import draw_cells
from vit_interactions.figures.display import POLICY, map_colors, map_scale
from vit_interactions.figures.overlay import draw_clipped
from vit_interactions.figures.shown import ShownFigure
from vit_interactions.loading.predictions import prediction_text
from vit_interactions.metrics.perturbation_curves import area_under_curve
from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.text import printable

LABELS = {"seconds": "time, s", "forwards": "time, forward passes", "peak_memory": "memory, MB"}
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "none": "neither end is better"}
COLOR, BASELINE_COLOR = "#1f83c9", "#808080"  # both can be seen on white and on black
CURVE_COLORS = ("#1f83c9", "#e07b00", "#1a9e77", "#d1495b", "#8f6bd0", "#a6761d", "#d95f9a")
CURVE_LINES = ("-", "--", ":", "-.")
COLUMNS = 8
PANEL = 1.7  # inches
TITLE = 0.4  # inches above a panel
HEAD = 0.6  # inches above all panels
DPI = 150
HIGHEST = 2**16 - 1  # pixels, the limit of matplotlib
NAME_LENGTH = 27  # characters per line above an image
METHOD_LENGTH = 40  # characters per line of a label
METRIC_LENGTH = 23  # characters per line above a ranking
TEXT_SIZE = 8  # points


PROBABILITY = "probability of the class"
_SHOWN = ("fraction of the patches shown", "{score}")
_REMOVED = ("fraction of the patches removed", "{score}")
_BETWEEN = ("fraction of the patches removed", "difference in {score}")
CURVE_AXES = {
    "insertion": _SHOWN,
    "token_insertion": _SHOWN,
    "deletion": _REMOVED,
    "token_deletion": _REMOVED,
    "abpc": _BETWEEN,
    "road": _BETWEEN,
    "randomization": ("fraction of the stages re-initialized", "rank correlation"),
}


def grid_figure(
    results: Results, model: str, keys: Sequence[str] | None = None, methods: Sequence[str] | None = None
) -> Figure:
    """Draw images x methods, every map at its place on the whole image.

    Each image is followed by its maps, in one or several rows. Its title states the prediction.

    Args:
        results: what was compared.
        model: one of its models.
        keys: of the images; None for all that have maps.
        methods: names; None for all of the comparison.

    Raises:
        ValueError: an unknown model, key or method, no image with maps, or more images than one figure holds (207 with
            up to 7 methods, 103 with up to 15, 69 with up to 23).
    """
    listed = [image.key for image in results.images]
    _check_known("keys", keys or (), listed)
    _check_known("methods", methods or (), results.methods)
    methods = results.methods if methods is None else methods
    chosen = {key: record for key, record in results.records(model, keys) if record.maps}
    if not chosen:
        raise ValueError(f"`keys` must name images that have maps of model {model!r}, got none.")
    columns = min(COLUMNS, 1 + len(methods))
    bands = -(-(1 + len(methods)) // columns)
    fit = int((HIGHEST / DPI - HEAD) / (bands * (PANEL + TITLE)))
    if len(chosen) > fit:
        raise ValueError(
            f"`keys` must be at most {fit} images with {len(methods)} methods, got {len(chosen)}: matplotlib draws "
            f"{HIGHEST:,} pixels of height at most."
        )
    figure = ShownFigure(figsize=(columns * PANEL, len(chosen) * bands * (PANEL + TITLE) + HEAD), dpi=DPI)
    figure.set_layout_engine("constrained")
    figure.suptitle(
        "\n".join(textwrap.wrap(f"{printable(model)}. {POLICY}", int(columns * PANEL * 15))), fontsize=TEXT_SIZE
    ).set_parse_math(False)
    panels: Any = figure.subplots(len(chosen) * bands, columns, squeeze=False)
    for each in panels.flat:
        each.set_axis_off()
    names = {image.key: image.name for image in results.images}
    for number, (key, record) in enumerate(chosen.items()):
        _, layout, placement = record.geometry()
        image = PreparedImage(results.image(key), torch.empty(0, device="cpu"), placement)
        first, *others = panels[number * bands : (number + 1) * bands].flat
        draw_image(first, image, layout)
        _title(first, f"{_short(names[key])}\n{prediction_text(record.prediction, record.target_class)}")
        for method, axes in zip(methods, others, strict=False):
            found = record.maps.get(method)
            _title(axes, _in_lines(method, NAME_LENGTH) + ("\n(no map)" if found is None else ""))
            draw_image(axes, image, layout, gray=True)
            if found is not None:
                draw_cells(axes, image, layout, map_colors(found))
                draw_clipped(axes, image, layout, found, map_scale(found))
    return figure


def curves_figure(results: Results, model: str, metric: str) -> Figure:
    """Draw the curves of a metric, averaged over images, one per method.

    Raises:
        ValueError: an unknown model, or a metric without curves.
    """
    curves = results.curves(model, metric)
    if not curves:
        raise ValueError(f"`metric` must be one that has curves, got {metric!r}, which has none.")
    direction = results.directions.get(metric, "none")
    return curves_of(curves, metric, direction, results.score_name(model))


def curves_of(curves: Mapping[str, Array], metric: str, direction: str, score: str = PROBABILITY) -> Figure:
    """Draw curves (points, 2) by method, as `curves_figure` does."""
    figure = ShownFigure(figsize=(6.4, 3.4 + 0.06 * len(curves)), dpi=DPI, layout="constrained")
    draw_curves(figure.add_subplot(), curves, metric, direction, score)
    return figure


def ranking_figure(results: Results, model: str, metric: str) -> Figure:
    """Draw the methods' means with their confidence intervals, the best on top.

    Raises:
        ValueError: a model or metric without any value.
    """
    return ranking_of(results.summary(), model, metric)


def ranking_of(summary: pd.DataFrame, model: str, metric: str) -> Figure:
    """Draw the ranking of a summary, as `ranking_figure` does.

    Raises:
        ValueError: a model or metric without any value.
    """
    rows = summary[(summary["model"] == model) & (summary["metric"] == metric)]
    if rows.empty:
        raise ValueError(
            f"`metric` must be one that has values for model {model!r}, got {metric!r}, which has none."
        )
    figure = ShownFigure(figsize=(3.9, 0.9 + 0.22 * len(rows)), dpi=DPI, layout="constrained")
    draw_ranking(figure.add_subplot(), rows, metric)
    return figure


def agreement_figure(results: Results, model: str) -> Figure:
    """Draw the mean rank correlation between the maps of two methods; methods that agree are placed next to each other.

    Raises:
        ValueError: an unknown model.
    """
    return agreement_of(results.agreement(model))


def agreement_of(correlations: pd.DataFrame) -> Figure:
    """Draw correlations (methods, methods), as `agreement_figure` does."""
    side = 2.0 + 0.33 * len(correlations)
    figure = ShownFigure(figsize=(side + 0.8, side), dpi=DPI, layout="constrained")
    draw_agreement(figure.add_subplot(), correlations)
    return figure


def draw_ranking(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    """Draw means with intervals, the best on top, and the random baseline as a band.

    Args:
        axes: where to draw.
        rows: of one model and one metric, with the columns of `Results.summary`.
        metric: its name.
    """
    direction = str(rows["direction"].iloc[0])
    if metric in COSTS:  # the cost of the baseline is not informative
        rows = rows[rows["method"] != BASELINE]
    rows = rows.assign(fewer=rows["images"] < rows["images"].max())
    rows = rows.sort_values(["fewer", "mean"], ascending=[False, direction != "lower"], kind="stable")
    places = np.arange(len(rows))
    for place, (method, mean, low, high) in enumerate(
        zip(rows["method"], rows["mean"], rows["low"], rows["high"], strict=True)
    ):
        baseline = method == BASELINE
        color = BASELINE_COLOR if baseline else COLOR
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [place, place], color=color, linewidth=2.4, alpha=0.5, solid_capstyle="round")
            if baseline:
                axes.axvspan(low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(mean, place, marker="D" if baseline else "o", markersize=5, color=color, linestyle="none")
        if baseline:
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
    """Draw curves (points, 2) by method, listed from the highest mean down; `score` names the vertical axis."""
    styles = [(color, line) for line in CURVE_LINES for color in CURVE_COLORS]
    lines = {}
    for number, (name, curve) in enumerate(curves.items()):
        color, line = styles[number % len(styles)] if name != BASELINE else (BASELINE_COLOR, "-")
        width = 2.6 if name == BASELINE else 1.4
        [lines[name]] = axes.plot(*curve.T, color=color, linestyle=line, linewidth=width)
    names = sorted(curves, key=lambda name: area_under_curve(torch.from_numpy(curves[name])), reverse=True)
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
    across, up = CURVE_AXES.get(metric, ("fraction", "score"))
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
    labels = [_in_lines(names[i], METHOD_LENGTH).replace("$", r"\$") for i in order]
    axes.set_xticks(range(len(names)), labels, rotation=50, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(labelsize=TEXT_SIZE, length=0)
    axes.set_title("mean rank correlation", fontsize=TEXT_SIZE + 1)
    for spine in axes.spines.values():
        spine.set_visible(False)


def alike_together(correlations: Array) -> list[int]:
    """Order things so that highly correlated ones are next to each other (average linkage).

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
    """Return the display name of a metric or a cost.

    Example:
        >>> metric_label("pointing_game"), metric_label("seconds")
        ('pointing game', 'time, s')
    """
    return LABELS.get(metric, metric.replace("_", " "))


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
    """Set a title with the metric and its better end, in lines that fit the narrowest axes."""
    lines = [*textwrap.wrap(printable(metric_label(metric)), METRIC_LENGTH), DIRECTIONS[direction]]
    axes.set_title("\n".join(lines), fontsize=TEXT_SIZE + 1, loc="left", parse_math=False, usetex=False)


def _label(method: str) -> str:
    """Return the label of a method on an axis or in a legend, where "$" would start a formula."""
    return _in_lines(method, METHOD_LENGTH).replace("$", r"\$") + (" (baseline)" if method == BASELINE else "")


def _in_lines(method: str, length: int) -> str:
    r"""Break the name of a method into lines, after underscores and commas.

    Example:
        >>> _in_lines("dynamic_accumulated_attention:rectify=False,norm_blocks=True", 27).split("\n")
        ['dynamic_accumulated_', 'attention:rectify=False,', 'norm_blocks=True']
    """
    breakable = re.sub(r"(?<=[_,])(?=\S)", "\v", method)  # whitespace that no name contains
    return "\n".join(textwrap.wrap(breakable, length, replace_whitespace=False)).replace("\v", "")


def _check_known(name: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    unknown = [each for each in chosen if each not in known]
    if unknown:
        raise ValueError(f"`{name}` must be among {', '.join(map(str, known))}, got {unknown[0]!r}.")
