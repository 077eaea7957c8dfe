"""Intersection over union of the object and the thresholded map.

Source: Leem and Seo, Attention Guided CAM, AAAI 2024 (threshold 0.5 on the min-max scaled map).
"""

from torch import Tensor

from vit_interactions.metrics.localization_metric import localization_metric
from vit_interactions.metrics.metric import Metric
from vit_interactions.utilities.checks import check_fraction


def intersection_over_union(patch_map: Tensor, inside: Tensor, threshold: float = 0.5) -> float:
    """Compute |high ∩ inside| / |high ∪ inside| over patches.

    Args:
        patch_map: (rows, cols), not constant.
        inside: (rows, cols) bool.
        threshold: a patch is high if its value, scaled from the map's minimum 0 to its maximum 1, reaches this.

    Returns:
        Value in [0, 1].

    Example:
        >>> import torch
        >>> intersection_over_union(torch.tensor([[0.0, 5.0, 9.0]]), torch.tensor([[True, True, False]]))
        0.3333333333333333
    """
    scaled = (patch_map - patch_map.min()) / (patch_map.max() - patch_map.min())
    high = scaled >= threshold
    return float((high & inside).sum().double() / (high | inside).sum())


def iou(threshold: float = 0.5, *, name: str = "iou") -> Metric:
    """Create the metric for a threshold in [0, 1].

    Example:
        >>> iou(0.2, name="iou_low").parameters["threshold"]
        0.2
    """
    check_fraction("threshold", threshold)
    return localization_metric(
        name,
        lambda patch_map, inside: intersection_over_union(patch_map, inside, threshold),
        source="Leem and Seo, Attention Guided CAM, AAAI 2024",
        parameters={"threshold": threshold, "scale": "min-max"},
    )
