"""Insertion: how fast the class appears when the most relevant pixels are shown first.

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, by whole patches in place of pixels, since a patch is the
finest thing that these maps tell apart.
"""

from vit_interactions.metrics.area_metric import pixel_metric
from vit_interactions.metrics.metric import Metric
from vit_interactions.metrics.removal import insertion_curve


def insertion(baseline: str = "blur", steps: int = 20, *, name: str = "insertion") -> Metric:
    """Make the metric: the area below the curve of the class's score over the share of patches shown.

    Args:
        baseline: what is shown before: "blur", "mean" or "zero".
        steps: into how many the patches are divided.
        name: what tables call it.

    Example:
        >>> insertion("zero", steps=10, name="insertion_black").cost
        '11 forward passes'
    """
    return pixel_metric(name, "higher", baseline, steps, insertion_curve)
