"""Deletion: how fast the class vanishes when the most relevant pixels are removed first.

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, by whole patches in place of pixels.
"""

from vit_interactions.compare.metrics.area_metric import area_metric
from vit_interactions.compare.metrics.baseline import check_baseline
from vit_interactions.compare.metrics.metric import Metric
from vit_interactions.compare.metrics.pixel_scores import pixel_scores
from vit_interactions.compare.metrics.removal import check_count, deletion_curve


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
    check_count("steps", steps)
    return area_metric(
        name,
        "lower",
        steps,
        deletion_curve,
        lambda case, shown: pixel_scores(case, shown, baseline),
        source="Petsiuk et al., RISE, BMVC 2018",
        parameters={"baseline": baseline, "steps": steps, "unit": "patch", "score": "softmax", "ties": "seeded"},
        passes=steps + 1,
    )
