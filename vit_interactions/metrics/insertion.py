"""Insertion: how fast does the class score rise when the most relevant pixels are shown first?

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, with whole patches instead of pixels, since a patch is the
finest detail of these maps.
"""

from vit_interactions.metrics.metric import Metric
from vit_interactions.metrics.perturbation_curves import insertion_curve
from vit_interactions.metrics.perturbation_metric import pixel_metric


def insertion(baseline: str = "blur", steps: int = 20, *, name: str = "insertion") -> Metric:
    """Create the metric: area under the curve of the class score over the fraction of patches shown.

    Args:
        baseline: content of patches that are not shown yet: "blur", "mean" or "zero".
        steps: number of steps in which the patches are shown.
        name: name in tables.

    Example:
        >>> insertion("zero", steps=10, name="insertion_black").cost
        '11 forward passes'
    """
    return pixel_metric(name, "higher", baseline, steps, insertion_curve)
