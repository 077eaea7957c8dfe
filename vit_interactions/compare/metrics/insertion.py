"""Insertion: how fast the class appears when the most relevant pixels are shown first.

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, by whole patches in place of pixels, since a patch is the
finest thing that these maps tell apart.
"""

from vit_interactions.compare.metrics.area_metric import area_metric
from vit_interactions.compare.metrics.baseline import check_baseline
from vit_interactions.compare.metrics.metric import Metric
from vit_interactions.compare.metrics.pixel_scores import pixel_scores
from vit_interactions.compare.metrics.removal import check_count, insertion_curve


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
    check_count("steps", steps)
    return area_metric(
        name,
        "higher",
        steps,
        insertion_curve,
        lambda case, shown: pixel_scores(case, shown, baseline),
        source="Petsiuk et al., RISE, BMVC 2018",
        parameters={"baseline": baseline, "steps": steps, "unit": "patch", "score": "softmax", "ties": "seeded"},
        passes=steps + 1,
    )
