"""The tables of a report: what stands in their cells, and in which order they sort."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vit_interactions.compare.figures import CONTROL, DIRECTIONS

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
UNITS = {"seconds": "time, s", "forwards": "time, forward passes", "peak_memory": "memory, MB"}
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        name: of the metric.
        label: what its head says.
        direction: which values are better: "higher", "lower" or "none".
        hint: the direction in words.
    """

    name: str
    label: str
    direction: str

    @property
    def arrow(self) -> str:
        """The direction as an arrow."""
        return ARROWS[self.direction]

    @property
    def hint(self) -> str:
        """The direction in words."""
        return DIRECTIONS[self.direction]


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        text: as people read it.
        value: as the table sorts by it; None sorts last.
        interval: around it, as people read it.
        good: how far from the column's worst (0) to its best (1); None where neither end is better.
        best: whether nothing in the column is better.
        note: why it is missing or not of all photographs.
    """

    text: str = MISSING
    value: float | None = None
    interval: str = ""
    good: float | None = None
    best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A method's cells, one a column."""

    method: str
    cells: tuple[Cell, ...]

    @property
    def control(self) -> bool:
        """Whether it is the random control."""
        return self.method == CONTROL


@dataclass(frozen=True)
class Failure:
    """A reason, and the photographs that it holds for."""

    model: str
    method: str
    metric: str
    reason: str
    photographs: tuple[str, ...]


def number(value: float) -> str:
    """Write a number with three digits that say something.

    Example:
        >>> number(0.12345), number(-12.345), number(1234567.0), number(0.0000123), number(0.0)
        ('0.123', '−12.3', '1,234,567', '1.23e−05', '0')
    """
    if not math.isfinite(value):
        return MISSING
    text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}" if value else "0"
    return text.rstrip(".").replace("-", "−")


def columns(names: Sequence[str], directions: Mapping[str, str]) -> list[Column]:
    """Make the columns of metrics."""
    return [Column(name, UNITS.get(name, name.replace("_", " ")), directions.get(name, "none")) for name in names]


def summary_rows(
    summary: pd.DataFrame,
    methods: Sequence[str],
    heads: Sequence[Column],
    photographs: int,
    failures: pd.DataFrame,
) -> list[Row]:
    """Make the table methods x metrics of one model.

    Args:
        summary: the model's rows of `Comparison.summary`.
        methods: in the table's order.
        heads: its columns.
        photographs: how many there are.
        failures: the model's rows of `Comparison.failures`, which say why a number is missing.
    """
    found = {(row.method, row.metric): row for row in summary.itertuples()}
    ends = {head.name: _ends(summary[summary["metric"] == head.name]["mean"], head.direction) for head in heads}
    return [
        Row(
            method,
            tuple(
                _mean_cell(
                    found.get((method, head.name)),
                    ends[head.name],
                    head.direction != "none",
                    photographs,
                    _reason(failures, method, head.name),
                )
                for head in heads
            ),
        )
        for method in methods
    ]


def _mean_cell(row: Any, ends: tuple[float, float], judged: bool, photographs: int, reason: str) -> Cell:
    """Write a mean with its interval; `ends` are the column's worst and best, `reason` why values are missing."""
    if row is None or not math.isfinite(row.mean):
        return Cell(note=reason)
    worst, best = ends
    note = ""
    if row.photographs < photographs:
        note = f"{row.photographs} of {photographs} photographs" + (f". {reason}" if reason else "")
    return Cell(
        number(row.mean),
        float(row.mean),
        f"{number(row.low)} – {number(row.high)}" if math.isfinite(row.low) else "",
        (row.mean - worst) / (best - worst) if judged and best != worst else None,
        judged and row.mean == best,
        note,
    )


def value_rows(table: pd.DataFrame, methods: Sequence[str], heads: Sequence[Column]) -> list[Row]:
    """Make the table methods x metrics of one photograph under one model, from its rows of `Comparison.table`."""
    found = {(row.method, row.metric): float(row.value) for row in table.itertuples()}
    values = {method: [found.get((method, head.name)) for head in heads] for method in methods}
    return [
        Row(method, tuple(Cell() if value is None else Cell(number(value), value) for value in row))
        for method, row in values.items()
        if any(value is not None for value in row)
    ]


def grouped_failures(failures: pd.DataFrame, names: Mapping[str, str]) -> list[Failure]:
    """Put together what failed for one reason on several photographs; `names` gives the photographs' by key."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for row in failures.itertuples():
        group = groups.setdefault((row.model, row.method, row.metric, row.reason), [])
        group.append(names.get(row.photograph, row.photograph))
    return [Failure(*about, tuple(photographs)) for about, photographs in groups.items()]


def _ends(means: "pd.Series[float]", direction: str) -> tuple[float, float]:
    """The worst and the best mean."""
    values = means.to_numpy(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 0.0
    ends = float(values.min()), float(values.max())
    return ends if direction != "lower" else ends[::-1]


def _reason(failures: pd.DataFrame, method: str, metric: str) -> str:
    rows = failures[(failures["method"] == method) & failures["metric"].isin(["", metric])]
    return str(rows["reason"].iloc[0]) if len(rows) else ""
