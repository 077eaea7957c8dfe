"""Deletion: how fast the class vanishes when the most relevant pixels are removed first.

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, by whole patches in place of pixels.
"""

from vit_interactions.metrics.area_metric import pixel_metric
from vit_interactions.metrics.metric import Metric
from vit_interactions.metrics.removal import deletion_curve


def deletion(baseline: str = "mean", steps: int = 20, *, name: str = "deletion") -> Metric:
    """Make the metric: the area below the curve of the class's score over the share of patches removed.

    Args:
        baseline: what replaces removed patches: "blur", "mean" or "zero".
        steps: into how many the patches are divided.
        name: what tables call it.

    Example:
        >>> deletion("blur", name="deletion_blur").direction
        'lower'
    """
    return pixel_metric(name, "lower", baseline, steps, deletion_curve)
