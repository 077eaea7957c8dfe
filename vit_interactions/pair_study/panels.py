"""Titles of the scores, and the summary arranged for a figure."""

from math import inf, isnan
from typing import Any

import pandas as pd

from vit_interactions.figures.intervals import Interval
from vit_interactions.pair_study.summary import RELIABILITY

CORRELATION_TITLES = {
    "spearman": "rank correlation",
    "beyond_distance": "beyond distance",
    "beyond_first_order": "and first order",
}
AREA_TITLES = {
    "pair_area": "insertion - deletion",
    "pair_insertion": "insertion",
    "pair_deletion": "deletion",
}
PANELS = CORRELATION_TITLES | {"pair_area": AREA_TITLES["pair_area"]}


def panels(summary: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """Arrange a summary for `intervals_figure`.

    Args:
        summary: from `summarize_pairs`.

    Returns:
        Title of a score -> method -> (mean, low, high): the first method, then the others, the best ones first.
    """
    records: list[Any] = summary.to_dict("records")
    first = next(row["method"] for row in records if row["method"] != RELIABILITY)
    plain = {row["method"]: row["mean"] for row in records if row["score"] == "spearman"}
    order = sorted(plain, key=lambda name: (name != first, rank(plain[name])))
    found = {(row["method"], row["score"]): (row["mean"], row["low"], row["high"]) for row in records}
    return {
        title: {name.replace("_", " "): found[name, score] for name in order} for score, title in PANELS.items()
    }


def rank(mean: float) -> float:
    """Return a key that sorts means from the highest to the lowest, NaN last.

    Example:
        >>> sorted([0.2, float("nan"), 0.5], key=rank)
        [0.5, 0.2, nan]
    """
    return inf if isnan(mean) else -mean
