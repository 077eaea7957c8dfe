"""Deletion: how fast the class vanishes when the most relevant pixels are removed first.

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, by whole patches in place of pixels.
"""

from torch import Tensor

from vit_interactions.compare.metrics.baseline import check_baseline
from vit_interactions.compare.metrics.metric import Case, Metric, Score
from vit_interactions.compare.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.compare.metrics.pixel_scores import pixel_scores
from vit_interactions.compare.metrics.removal import area, check_steps, deletion_curve


def deletion(baseline: str = "mean", steps: int = 20, *, name: str = "deletion") -> Metric:
    """Make the metric: the area below the curve of the probability over the share of patches removed.

    Args:
        baseline: what replaces removed patches: "blur", "mean" or "zero".
        steps: into how many the patches are divided.
        name: what tables call it.

    Example:
        >>> deletion("blur", name="deletion_blur").direction
        'lower'
    """
    check_baseline(baseline)
    check_steps(steps)

    def measure(case: Case, patch_map: Tensor) -> Score:
        ranks = relevance_ranks(check_map(patch_map, case.layout.grid), case.seed)
        curve = deletion_curve(ranks, steps, lambda shown: pixel_scores(case, shown, baseline))
        return Score(area(curve), curve)

    return Metric(
        name=name,
        direction="lower",
        range=(0.0, 1.0),
        source="Petsiuk et al., RISE, BMVC 2018",
        parameters={"baseline": baseline, "steps": steps, "unit": "patch", "score": "softmax", "ties": "seeded"},
        needs=frozenset(),
        cost=f"{steps + 1} forward passes",
        measure=measure,
    )
