"""Metrics of a comparison that can be checked by hand."""

from collections.abc import Callable

import torch
from torch import Tensor

from vit_interactions.compare.comparison import Comparison
from vit_interactions.metrics import Case, Metric, Score

METHODS = ["raw_attention", "responsive_field_size", "gmar", "random_map"]


def make_metric(name: str, measure: Callable[[Case, Tensor], Score], needs: tuple[str, ...] = ()) -> Metric:
    """Make a metric for the tests."""
    return Metric(name, "higher", (0.0, 1.0), "these tests", {"of": name}, frozenset(needs), "nothing", measure)


def _first(case: Case, patch_map: Tensor) -> Score:
    curve = torch.tensor([[0.0, 1.0], [1.0, float(patch_map[0, 0])]], dtype=torch.float64)
    return Score(float(patch_map[0, 0]), curve)


def _probability(case: Case, patch_map: Tensor) -> Score:
    with torch.no_grad():
        return Score(float(case.model(case.inputs)[0].double().softmax(-1)[case.target]))


FIRST, PROBABILITY = make_metric("first", _first), make_metric("probability", _probability)


def value(comparison: Comparison, image: str, method: str, metric: str) -> float:
    """Return one value of the table."""
    table = comparison.table().set_index(["image", "method", "metric"])
    return float(table.loc[(image, method, metric), "value"])
