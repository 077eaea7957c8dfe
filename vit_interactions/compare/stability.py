"""Rank stability: does the best method change with what replaces the removed patches?

Insertion, deletion and ABPC replace removed patches by a baseline (the mean color, a blurred image, black), or remove
their tokens. The choice is arbitrary, so a ranking that depends on it says little.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from vit_interactions.compare.summary import BASELINE

COLUMNS = ["model", "metrics", "best", "images", "changes", "correlation"]


def metrics_by_replacement(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Group the metrics that remove patches in the same way, but replace them differently.

    Args:
        metrics: descriptions by name, as in `Results.settings["metrics"]`.

    Returns:
        A dict from replacement ("mean", "blur", "zero" or "tokens") to metric per group of at least two.

    Example:
        >>> steps = {"direction": "lower", "range": [0, 1]}
        >>> mean = {**steps, "parameters": {"steps": 20, "baseline": "mean"}}
        >>> tokens = {**steps, "parameters": {"steps": 20, "removal": "attention masked"}}
        >>> metrics_by_replacement({"deletion": mean, "token_deletion": tokens})
        [{'mean': 'deletion', 'tokens': 'token_deletion'}]
    """
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for name, facts in metrics.items():
        parameters = facts.get("parameters", {})
        replacement = parameters.get("baseline", "tokens" if "removal" in parameters else None)
        if replacement is not None and "steps" in parameters:
            # Insertion, deletion and ABPC differ in direction or range.
            kind = facts["direction"], *facts["range"], parameters["steps"]
            groups.setdefault(kind, {}).setdefault(replacement, name)
    return [group for group in groups.values() if len(group) > 1]


def rank_stability(table: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Compare the rankings of methods by metrics that differ in what replaces the removed patches.

    Only images and methods with a value by each of these metrics count, without the random baseline.

    Args:
        table: as `Results.table`.
        metrics: descriptions by name, as in `Results.settings["metrics"]`.

    Returns:
        One row per model and group of metrics, none if nothing was measured with two replacements. "metrics" names
        metrics and replacements, "best" the method with the best mean by each, "images" their number. "changes" is the
        fraction of images and pairs of replacements for which the best method of the image differs; for k methods in
        random order, it is 1 - 1/k. "correlation" is Spearman's correlation between the values of the methods under
        two replacements, averaged over images and pairs, NaN if there is none.
    """
    rows = []
    for model in dict.fromkeys(table["model"]):
        for group in metrics_by_replacement(metrics):
            sign = -1 if metrics[next(iter(group.values()))]["direction"] == "lower" else 1
            own = table[(table["model"] == model) & (table["method"] != BASELINE)]
            wide = sign * own.pivot(index=["image", "method"], columns="metric", values="value")
            wide = wide.reindex(columns=list(group.values())).dropna()
            methods = wide.index.get_level_values("method")
            ranked = [values for _, values in wide.groupby(level="image", sort=False) if len(values) > 1]
            if not ranked:
                continue
            means = wide.groupby(methods, sort=False).mean()
            pairs = list(combinations(group.values(), 2))
            best = {metric: means.index[means[metric] == means[metric].max()] for metric in group.values()}
            correlations = [_correlation(values[a], values[b]) for values in ranked for a, b in pairs]
            rows.append(
                (
                    model,
                    ", ".join(f"{metric} ({replacement})" for replacement, metric in group.items()),
                    ", ".join(f"{' and '.join(best[metric])} ({name})" for name, metric in group.items()),
                    len(ranked),
                    float(
                        np.mean([not (_best(values[a]) & _best(values[b])) for values in ranked for a, b in pairs])
                    ),
                    float(pd.Series(correlations).mean()),  # skips NaN
                )
            )
    found: pd.DataFrame = pd.DataFrame(rows, columns=COLUMNS)
    return found


def _best(values: pd.Series) -> set[Any]:
    """Return the rows with the highest value, usually one."""
    return set(values.index[values == values.max()])


def _correlation(first: pd.Series, second: pd.Series) -> float:
    """Compute Spearman's correlation; NaN if either is constant."""
    return float(first.rank().corr(second.rank())) if first.nunique() > 1 < second.nunique() else float("nan")
