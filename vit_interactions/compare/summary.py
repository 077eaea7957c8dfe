"""Means over images with bootstrap confidence intervals.

Source: Efron, Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 7(1), 1979; percentile intervals.
All methods and metrics share the same resamples, so that their differences are comparable.
"""

from collections.abc import Mapping
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from vit_interactions.explain.configured import declared_passes
from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.checks import check_fraction

BASELINE = "random_map"  # methods that do not beat it are not informative
DRAWS = 2000
AT_ONCE = 2**22  # images drawn at a time, which bounds the memory
COLUMNS = ["model", "method", "metric", "mean", "low", "high", "images", "direction"]


def bootstrap_intervals(values: Array, confidence: float = 0.95, seed: int = 0) -> tuple[Array, Array]:
    """Compute a confidence interval for the mean of each column by resampling rows.

    Args:
        values: (rows, columns); NaN where a value is missing.
        confidence: level of the interval, in [0, 1].
        seed: of the resampling.

    Returns:
        Lower and upper ends (columns,); NaN for columns with fewer than two values.

    Raises:
        ValueError: `confidence` outside [0, 1].

    Example:
        >>> low, high = bootstrap_intervals(np.array([[0.0, 5.0], [1.0, 5.0]] * 50))
        >>> bool(0.3 < low[0] < 0.5 < high[0] < 0.7), float(low[1]), float(high[1])
        (True, 5.0, 5.0)
    """
    check_fraction("confidence", confidence)
    rows = len(values)
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, DRAWS, step := max(1, AT_ONCE // max(rows, 1))):
        draws = random.integers(0, max(rows, 1), (min(step, DRAWS - start), rows))
        times = np.stack([np.bincount(draw, minlength=rows) for draw in draws]).astype(np.float64)
        with np.errstate(invalid="ignore"):  # a draw without any value of the column
            means.append(times @ filled / (times @ present.astype(np.float64)))
    enough = present.sum(0) >= 2
    low, high = np.full((2, values.shape[1]), np.nan)
    if enough.any():
        tail = (1 - confidence) / 2
        low[enough], high[enough] = np.nanquantile(np.concatenate(means)[:, enough], [tail, 1 - tail], axis=0)
    return low, high


def summarize_differences(values: Array, differences: Array, seed: int = 0) -> pd.DataFrame:
    """Average values over images, and their differences from those of a reference on the same images.

    Args:
        values: (images, columns); NaN where a value is missing.
        differences: (images, columns), the same for the differences.
        seed: of the resampling.

    Returns:
        One row per column: mean with its 95% confidence interval from low to high, images (number with a value), and
        difference with its interval from difference_low to difference_high. NaN where there is no value.

    Example:
        >>> values = np.array([[1.0, 3.0], [3.0, 5.0]])
        >>> summarize_differences(values, values - values[:, :1])[["mean", "images", "difference"]]
           mean  images  difference
        0   2.0       2         0.0
        1   4.0       2         2.0
    """
    columns = np.concatenate((values, differences), 1)
    low, high = bootstrap_intervals(columns, seed=seed)
    frame = pd.DataFrame(columns)
    means, counts, half = frame.mean().to_numpy(), frame.count().to_numpy(), values.shape[1]
    table: pd.DataFrame = pd.DataFrame(
        {
            "mean": means[:half],
            "low": low[:half],
            "high": high[:half],
            "images": counts[:half],
            "difference": means[half:],
            "difference_low": low[half:],
            "difference_high": high[half:],
        }
    )
    return table


def summarize(
    table: pd.DataFrame, directions: Mapping[str, str], confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Average a table (model, image, method, metric, value) over images.

    Args:
        table: from `Results.table`.
        directions: metric -> "higher", "lower" or "none".
        confidence: of the intervals.
        seed: of the resampling.

    Returns:
        Columns model, method, metric, mean, low, high, images (number with a value) and direction, in the order of
        the table.
    """
    if table.empty:
        empty: pd.DataFrame = pd.DataFrame(columns=COLUMNS)
        return empty
    groups = ["model", "method", "metric"]
    wide = table.pivot(index="image", columns=groups, values="value")  # NaN where a value is missing
    wide = wide[list(dict.fromkeys(zip(*(table[name] for name in groups), strict=True)))]
    values = wide.to_numpy(np.float64)
    low, high = bootstrap_intervals(values, confidence, seed)
    summary: pd.DataFrame = wide.columns.to_frame(index=False)
    summary["mean"], summary["low"], summary["high"] = np.nanmean(values, 0), low, high
    summary["images"] = (~np.isnan(values)).sum(0)
    summary["direction"] = [directions[metric] for metric in summary["metric"]]
    return summary


def with_costs(summary: pd.DataFrame, methods: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Add what a map by the method of each row costs.

    Args:
        summary: from `summarize`.
        methods: description of each method, from `ConfiguredMethod.describe`.

    Returns:
        The summary with the columns cost, the mean time of a map, divided by that of a forward pass, NaN if no map was
        made; and forward_passes and backward_passes, as the method declares them, missing for methods whose options
        may change them, see `declared_passes`.
    """
    times = summary[summary["metric"] == "forwards"]
    costs = {(row.model, row.method): row.mean for row in times.itertuples()}
    passes = {name: declared_passes(described) or (None, None) for name, described in methods.items()}
    summary["cost"] = [costs.get(key, nan) for key in zip(summary["model"], summary["method"], strict=True)]
    for place, name in enumerate(("forward_passes", "backward_passes")):
        summary[name] = pd.array([passes[method][place] for method in summary["method"]], dtype="Int64")
    return summary
