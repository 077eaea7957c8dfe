"""The tables of a report: the texts of their cells, and the values by which they sort."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.report.figures import DIRECTIONS, metric_label
from vit_interactions.compare.summary import BASELINE

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        name: of the metric.
        label: text of its head.
        direction: which values are better: "higher", "lower" or "none".
        images: number with a value by some method.
    """

    name: str
    label: str
    direction: str
    images: int = 0

    @property
    def arrow(self) -> str:
        """The direction as an arrow."""
        return ARROWS[self.direction]

    @property
    def hint(self) -> str:
        """The direction in words."""
        return DIRECTIONS[self.direction]

    @property
    def cost(self) -> bool:
        """True if it is a cost of maps, by which the random baseline is not ranked."""
        return self.name in COSTS


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        text: shown.
        value: to sort by; None sorts last.
        interval: its confidence interval, as text.
        good: from the column's worst (0) to its best (1); None if neither end is better, or images have no value.
        best: True if nothing in the column is better.
        note: why it is missing, or not of all images.
        fewer: number of images with a value, if not all have one.
    """

    text: str = MISSING
    value: float | None = None
    interval: str = ""
    good: float | None = None
    best: bool = False
    note: str = ""
    fewer: str = ""


@dataclass(frozen=True)
class MethodRow:
    """A method's cells, one per column."""

    method: str
    cells: tuple[Cell, ...]

    @property
    def baseline(self) -> bool:
        """True for the random baseline."""
        return self.method == BASELINE


@dataclass(frozen=True)
class FailureGroup:
    """Failures for one reason, with their methods and images; no methods if images failed as a whole."""

    model: str
    metric: str
    reason: str
    methods: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class StabilityRow:
    """The stability of a ranking under metrics that differ in what replaces removed patches."""

    metrics: str
    best: str
    images: int
    changes: str
    correlation: str


@dataclass(frozen=True)
class Best:
    """The best methods by a metric, and the random baseline."""

    column: Column
    methods: tuple[str, ...]
    cell: Cell
    baseline: Cell | None

    @property
    def beaten(self) -> bool:
        """True if no method does better than the random baseline."""
        if self.baseline is None or self.baseline.value is None or self.cell.value is None:
            return False
        ahead = self.cell.value - self.baseline.value
        return ahead >= 0 if self.column.direction == "lower" else ahead <= 0


def number(value: float) -> str:
    """Format a number with three significant digits.

    Example:
        >>> number(0.12345), number(-12.345), number(1234567.0), number(0.0000123), number(0.0)
        ('0.123', '−12.3', '1,234,567', '1.23e−05', '0')
    """
    if not math.isfinite(value):
        return MISSING
    text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}" if value else "0"
    return text.rstrip(".").replace("-", "−")


def columns(table: pd.DataFrame, directions: Mapping[str, str]) -> list[Column]:
    """Make the columns of the metrics in rows of `Results.table`."""
    counts = table.groupby("metric")["image"].nunique()
    return [
        Column(name, metric_label(name), directions.get(name, "none"), int(counts[name]))
        for name in dict.fromkeys(table["metric"])
    ]


def summary_rows(
    summary: pd.DataFrame, methods: Sequence[str], heads: Sequence[Column], failures: pd.DataFrame
) -> list[MethodRow]:
    """Make the table methods x metrics of one model.

    Args:
        summary: the model's rows of `Results.summary`.
        methods: in the table's order.
        heads: its columns.
        failures: the model's rows of `Results.failures`, the reasons for missing numbers.
    """
    found = {(row.method, row.metric): row for row in _rows(summary)}
    ends = {head.name: _ends(summary[summary["metric"] == head.name], head) for head in heads}

    def cell(method: str, head: Column) -> Cell:
        row, reason = found.get((method, head.name)), _reason(failures, method, head.name)
        return _mean_cell(row, ends[head.name], head, reason)

    return [MethodRow(method, tuple(cell(method, head) for head in heads)) for method in methods]


def _mean_cell(row: Any, ends: tuple[float, float], head: Column, reason: str) -> Cell:
    """Format a mean with its interval; `ends` are the column's worst and best, `reason` that of missing values."""
    if row is None or not math.isfinite(row.mean):
        return Cell(note=reason)
    worst, best = ends
    whole = row.images == head.images  # the remaining images may be the easy ones
    fewer = "" if whole else f"{row.images} of {head.images} images"
    judged = whole and head.direction != "none" and row.method != BASELINE
    return Cell(
        number(row.mean),
        float(row.mean),
        f"{number(row.low)} – {number(row.high)}" if math.isfinite(row.low) else "",
        float(row.mean - worst) / (best - worst) if judged and best != worst else None,
        bool(judged and row.mean == best),
        f"{fewer}. {reason}" if fewer and reason else fewer,
        fewer,
    )


def best_by_metric(rows: Sequence[MethodRow], heads: Sequence[Column]) -> list[Best]:
    """Return the best methods by each metric that has a better end; costs are skipped."""
    found = []
    for place, head in enumerate(heads):
        best = [row for row in rows if row.cells[place].best]
        if best and not head.cost:
            baseline = next((row.cells[place] for row in rows if row.baseline), None)
            found.append(Best(head, tuple(row.method for row in best), best[0].cells[place], baseline))
    return found


def stability_rows(stability: pd.DataFrame) -> list[StabilityRow]:
    """Format the rows of `stability.rank_stability`."""
    return [
        StabilityRow(row.metrics, row.best, int(row.images), f"{row.changes:.0%}", number(row.correlation))
        for row in _rows(stability)
    ]


def model_tables(
    summary: pd.DataFrame, methods: Sequence[str], failures: pd.DataFrame, directions: Mapping[str, str]
) -> list[tuple[Column, list[Column], list[MethodRow]]]:
    """Make a table methods x models per metric; costs are skipped.

    Args:
        summary: as `Results.summary`.
        methods: in the tables' order.
        failures: as `Results.failures`.
        directions: as `Results.directions`.

    Returns:
        The metric, the columns named after the models, and the rows.
    """
    found = []
    for metric in dict.fromkeys(summary["metric"]):
        about = Column(metric, metric_label(metric), directions.get(metric, "none"))
        if about.cost:
            continue
        means = summary[summary["metric"] == metric]
        counts = means.groupby("model", sort=False)["images"].max()
        heads = [Column(str(model), str(model), about.direction, int(count)) for model, count in counts.items()]
        missing = failures[failures["metric"].isin(["", metric])]
        # To the table of one model, the models are the columns.
        turned, reasons = means.assign(metric=means["model"]), missing.assign(metric=missing["model"])
        found.append((about, heads, summary_rows(turned, methods, heads, reasons)))
    return found


def value_rows(table: pd.DataFrame, methods: Sequence[str], heads: Sequence[Column]) -> list[MethodRow]:
    """Make the table methods x metrics of one image under one model, from its rows of `Results.table`."""
    found = {(row.method, row.metric): float(row.value) for row in _rows(table)}
    values = {method: [found.get((method, head.name)) for head in heads] for method in methods}
    return [
        MethodRow(method, tuple(Cell() if value is None else Cell(number(value), value) for value in row))
        for method, row in values.items()
        if any(value is not None for value in row)
    ]


def grouped_failures(failures: pd.DataFrame, names: Mapping[str, str]) -> list[FailureGroup]:
    """Group failures with the same reason, over images and then over methods.

    Args:
        failures: as `Results.failures`.
        names: of the images, by key.
    """
    images: dict[tuple[str, str, str, str], list[str]] = {}
    for row in _rows(failures):
        about = str(row.model), str(row.metric), str(row.reason), str(row.method)
        images.setdefault(about, []).append(names.get(str(row.image), str(row.image)))
    methods: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (model, metric, reason, method), found in images.items():
        methods.setdefault((model, metric, reason, tuple(found)), []).extend([method] if method else [])
    return [FailureGroup(*about[:3], tuple(found), about[3]) for about, found in methods.items()]


def _ends(rows: pd.DataFrame, head: Column) -> tuple[float, float]:
    """Return the worst and the best mean of a column over all its images, without the baseline."""
    rows = rows[(rows["images"] == head.images) & (rows["method"] != BASELINE)]
    values = rows["mean"].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 0.0
    low, high = float(values.min()), float(values.max())
    return (high, low) if head.direction == "lower" else (low, high)


def _rows(table: pd.DataFrame) -> list[Any]:
    """Return the rows as named tuples, which have no static types."""
    return list(table.itertuples())


def _reason(failures: pd.DataFrame, method: str, metric: str) -> str:
    rows = failures[(failures["method"] == method) & failures["metric"].isin(["", metric])]
    return str(rows["reason"].iloc[0]) if len(rows) else ""
