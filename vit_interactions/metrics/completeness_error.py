"""Completeness error: does the map sum to the score that it explains?

Source: Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, Prop. 1: integrated gradients sum to
f(x) - f(baseline). The score f is the model's output for the target class before any softmax or sigmoid, since that is
what these methods explain. The error is divided by |f(x) - f(baseline)|, so that models with different scores compare.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vit_interactions.metrics.baseline import baseline_image
from vit_interactions.metrics.class_score import class_score
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map


def completeness_error(total: float, full: float, baseline: float) -> float:
    """Compute |total - (full - baseline)| / |full - baseline|.

    Args:
        total: sum of the map.
        full: score of the image.
        baseline: score of the baseline.

    Raises:
        ValueError: the scores are equal.

    Example:
        >>> completeness_error(3.0, 5.0, 1.0), completeness_error(0.0, 5.0, 1.0)
        (0.25, 1.0)
    """
    if full == baseline:
        raise ValueError("not defined: the image and the baseline have the same score.")
    return abs(total - (full - baseline)) / abs(full - baseline)


def _measure(case: Case, patch_map: Tensor) -> Score:
    values = check_map(patch_map, case.layout.grid)
    if not case.complete:
        raise ValueError(
            "not defined: the method does not claim that its map sums to the score minus that of the mean color."
        )
    images = torch.cat([case.inputs, baseline_image(case.inputs, "mean", case.mean, case.std)])
    full, baseline = class_score(replace(case, output="value"), images).tolist()
    return Score(completeness_error(float(values.sum()), full, baseline))


COMPLETENESS_ERROR = Metric(
    name="completeness_error",
    direction="lower",
    range=(0.0, float("inf")),
    source="Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017",
    parameters={"baseline": "mean", "score": "output before the link function"},
    needs=frozenset({"complete"}),
    cost="2 forward passes",
    measure=_measure,
)
