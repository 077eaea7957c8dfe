"""Plot the losses, accuracy and patch interactions of a run against its training steps."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from vit_interactions.figures.shown import ShownFigure

Rows = Sequence[Mapping[str, float | None]]
Line = tuple[str, Rows, str]  # name, rows, column

WIDTH, HEIGHT = 4.2, 3.0  # inches per panel
LOG, EPOCHS = "training (mean since the last point)", "evaluation"


def training_figure(steps: Rows, epochs: Rows, title: str = "") -> Figure:
    """Plot the logged values of a run, one panel per metric; metrics without values are omitted.

    Args:
        steps: rows of log.csv.
        epochs: rows of summary.csv.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: there are no values.

    Example:
        >>> figure = training_figure([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], [])
        >>> [axes.get_title() for axes in figure.axes]
        ['Loss']
    """
    # The evaluation loss contains the classification loss only.
    has_parts = any(row.get("window_loss") is not None for row in steps)
    loss: dict[str, list[Line]] = {"Loss": [(LOG, steps, "loss"), (EPOCHS, epochs, "eval_loss")]}
    if has_parts:
        loss = {
            "Loss": [(LOG, steps, "loss")],
            "Parts of the loss": [
                ("classification", steps, "classification_loss"),
                ("classification, evaluation", epochs, "eval_loss"),
                ("windows", steps, "window_loss"),
            ],
        }
    panels: dict[str, list[Line]] = {
        **loss,
        "Accuracy, %": [("top-1", epochs, "eval_top1"), ("top-5", epochs, "eval_top5")],
        "Patch interactions": [(LOG, steps, "operations"), (EPOCHS, epochs, "eval_operations")],
        "Learning rate": [("", steps, "lr")],
    }
    there = {
        name: [line for line in lines if any(row.get(line[2]) is not None for row in line[1])]
        for name, lines in panels.items()
    }
    there = {name: lines for name, lines in there.items() if lines}
    if not there:
        raise ValueError("`steps` and `epochs` must contain logged values, got none.")
    figure = ShownFigure((WIDTH * len(there), HEIGHT), layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(1, len(there), squeeze=False)[0], there.items(), strict=True):
        _draw(axes, name, lines)
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _draw(axes: Axes, name: str, lines: Sequence[Line]) -> None:
    for label, rows, column in lines:
        points = [(row["step"], row[column]) for row in rows if row.get(column) is not None]
        axes.plot(*zip(*points, strict=True), marker="o" if len(points) < 30 else "", markersize=3, label=label)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if name == "Patch interactions":
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if len(lines) > 1:
        axes.legend(fontsize=8)
