"""Deletion: how fast does the class score fall when the most relevant pixels are removed first?

Source: Petsiuk, Das and Saenko, RISE, BMVC 2018, Sec. 4.2, with whole patches instead of pixels.
"""

from vit_interactions.metrics.metric import Metric
from vit_interactions.metrics.perturbation_curves import deletion_curve
from vit_interactions.metrics.perturbation_metric import pixel_metric


def deletion(baseline: str = "mean", steps: int = 20, *, name: str = "deletion") -> Metric:
    """Create the metric: area under the curve of the class score over the fraction of patches removed.

    Args:
        baseline: replacement of removed patches: "blur", "mean" or "zero".
        steps: number of steps in which the patches are removed.
        name: name in tables.

    Example:
        >>> deletion("blur", name="deletion_blur").direction
        'lower'
    """
    return pixel_metric(name, "lower", baseline, steps, deletion_curve)
