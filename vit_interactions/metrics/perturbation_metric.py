"""Metrics that are the area under one curve of the score while patches are removed or shown."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.perturbation_curves import ScorePatches, area_under_curve
from vit_interactions.metrics.pixel_scores import pixel_scores
from vit_interactions.utilities.checks import check_count

Direction = Literal["higher", "lower"]
CurveOf = Callable[[Tensor, int, ScorePatches], Tensor]


def perturbation_metric(
    name: str,
    direction: Direction,
    steps: int,
    curve_of: CurveOf,
    scores: Callable[[Case, Tensor], Tensor],
    *,
    source: str,
    parameters: dict[str, Any],
    cost: str,
    lowest: float = 0.0,
) -> Metric:
    """Create a metric.

    Args:
        name: name in tables.
        direction: which values are better.
        steps: number of steps in which the patches are removed or shown.
        curve_of: `deletion_curve`, `insertion_curve`, or a function with the same arguments.
        scores: computes (images,) scores from the patches that are shown, (images, rows, cols) bool.
        source: the paper, for reports.
        parameters: settings that change the value, besides those of all such metrics.
        cost: cost of one map, for reports.
        lowest: lowest possible value; the highest is 1.
    """
    check_count("steps", steps)

    def measure(case: Case, patch_map: Tensor) -> Score:
        ranks = relevance_ranks(check_map(patch_map, case.layout.grid), case.seed)
        curve = curve_of(ranks, steps, lambda shown: scores(case, shown))
        return Score(area_under_curve(curve), curve)

    return Metric(
        name=name,
        direction=direction,
        range=(lowest, 1.0),
        source=source,
        parameters={**parameters, "steps": steps, "score": "by `output`", "ties": "seeded"},
        needs=frozenset(),
        cost=cost,
        measure=measure,
    )


def pixel_metric(
    name: str, direction: Direction, baseline: str, steps: int, curve_of: CurveOf, **options: Any
) -> Metric:
    """Create a metric that replaces the pixels of removed patches by a baseline.

    Args:
        name: name in tables.
        direction: which values are better.
        baseline: see `baseline.baseline_image`.
        steps: number of steps.
        curve_of: see `perturbation_metric`.
        **options: replace the defaults of `source` and `cost` (those of one RISE curve) and of `lowest`.
    """
    check_baseline(baseline)
    return perturbation_metric(
        name,
        direction,
        steps,
        curve_of,
        lambda case, shown: pixel_scores(case, shown, baseline),
        parameters={"baseline": baseline, "unit": "patch"},
        **{"source": "Petsiuk et al., RISE, BMVC 2018", "cost": f"{steps + 1} forward passes", **options},
    )
