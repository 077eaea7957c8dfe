"""Insertion: how fast the class appears when the most relevant pixels are shown first.

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, by whole patches in place of pixels, since a patch is the
finest thing that these maps tell apart.
"""

from torch import Tensor

from vit_interactions.compare.metrics.baseline import check_baseline
from vit_interactions.compare.metrics.metric import Case, Metric, Score
from vit_interactions.compare.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.compare.metrics.pixel_scores import pixel_scores
from vit_interactions.compare.metrics.removal import area, check_steps, insertion_curve


def insertion(baseline: str = "blur", steps: int = 20, *, name: str = "insertion") -> Metric:
    """Make the metric: the area below the curve of the probability over the share of patches shown.

    Args:
        baseline: what is shown before: "blur", "mean" or "zero".
        steps: into how many the patches are divided.
        name: what tables call it.

    Example:
        >>> insertion("zero", steps=10, name="insertion_black").cost
        '11 forward passes'
    """
    check_baseline(baseline)
    check_steps(steps)

    def measure(case: Case, patch_map: Tensor) -> Score:
        ranks = relevance_ranks(check_map(patch_map, case.layout.grid), case.seed)
        curve = insertion_curve(ranks, steps, lambda shown: pixel_scores(case, shown, baseline))
        return Score(area(curve), curve)

    return Metric(
        name=name,
        direction="higher",
        range=(0.0, 1.0),
        source="Petsiuk et al., RISE, BMVC 2018",
        parameters={"baseline": baseline, "steps": steps, "unit": "patch", "score": "softmax", "ties": "seeded"},
        needs=frozenset(),
        cost=f"{steps + 1} forward passes",
        measure=measure,
    )
