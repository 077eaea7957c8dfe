"""The metrics that are the area below one curve: of what is asked while patches are removed or shown."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.pixel_scores import pixel_scores
from vit_interactions.metrics.removal import Ask, area
from vit_interactions.utilities.checks import check_count


def area_metric(
    name: str,
    direction: Literal["higher", "lower"],
    steps: int,
    curve_of: Callable[[Tensor, int, Ask], Tensor],
    scores: Callable[[Case, Tensor], Tensor],
    *,
    source: str,
    parameters: dict[str, Any],
    passes: int,
) -> Metric:
    """Make a metric.

    Args:
        name: what tables call it.
        direction: which values are better.
        steps: into how many the patches are divided.
        curve_of: `removal.deletion_curve` or `removal.insertion_curve`.
        scores: computes (images,) scores from the patches that are shown, (images, rows, cols) bool.
        source: that reports name.
        parameters: likewise.
        passes: how many forward passes a map costs.
    """
    check_count("steps", steps)

    def measure(case: Case, patch_map: Tensor) -> Score:
        ranks = relevance_ranks(check_map(patch_map, case.layout.grid), case.seed)
        curve = curve_of(ranks, steps, lambda shown: scores(case, shown))
        return Score(area(curve), curve)

    return Metric(
        name=name,
        direction=direction,
        range=(0.0, 1.0),
        source=source,
        parameters=parameters,
        needs=frozenset(),
        cost=f"{passes} forward passes",
        measure=measure,
    )


def pixel_metric(
    name: str,
    direction: Literal["higher", "lower"],
    baseline: str,
    steps: int,
    curve_of: Callable[[Tensor, int, Ask], Tensor],
) -> Metric:
    """Make a metric of pixels that a baseline replaces; arguments as of `area_metric` and `baseline.baseline_image`."""
    check_baseline(baseline)
    return area_metric(
        name,
        direction,
        steps,
        curve_of,
        lambda case, shown: pixel_scores(case, shown, baseline),
        source="Petsiuk et al., RISE, BMVC 2018",
        parameters=removal_parameters(baseline, steps),
        passes=steps + 1,
    )


def removal_parameters(baseline: str, steps: int) -> dict[str, Any]:
    """Return what a metric says of itself that replaces patches of pixels by a baseline, step by step."""
    return {"baseline": baseline, "steps": steps, "unit": "patch", "score": "by `output`", "ties": "seeded"}
