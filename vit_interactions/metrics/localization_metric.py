"""Base of the localization metrics, which compare a map with the patches on the object."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map


def localization_metric(
    name: str, score: Callable[[Tensor, Tensor], float], *, source: str, parameters: dict[str, Any]
) -> Metric:
    """Create a metric in [0, 1], higher is better, that needs the object and no forward pass.

    Args:
        name: name in tables.
        score: computes the value from the map (rows, cols) and the marks `inside` (rows, cols) bool.
        source: the paper, for reports.
        parameters: settings that change the value, for reports.
    """

    def measure(case: Case, patch_map: Tensor) -> Score:
        return Score(score(check_map(patch_map, case.layout.grid), _object_patches(case)))

    return Metric(
        name=name,
        direction="higher",
        range=(0.0, 1.0),
        source=source,
        parameters=parameters,
        needs=frozenset({"object"}),
        cost="no forward pass",
        measure=measure,
    )


def _object_patches(case: Case) -> Tensor:
    if case.inside is None:
        raise ValueError("needs to know where the object is (boxes or a mask), but the case has no `inside`.")
    if not case.inside.any():
        raise ValueError("the object covers no patch (its center in a box, or half of it in the mask).")
    return case.inside.bool().cpu()
