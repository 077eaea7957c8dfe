"""Intersection over union of the object and the map above a threshold.

Source: Leem and Seo, Attention Guided CAM, AAAI 2024 (threshold 0.5 of the min-max scaled map).
"""

from torch import Tensor

from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.object import check_object
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.utilities.checks import check_fraction


def intersection_over_union(patch_map: Tensor, inside: Tensor, threshold: float = 0.5) -> float:
    """Compute |high ∩ inside| / |high ∪ inside| over patches.

    Args:
        patch_map: (rows, cols), not constant.
        inside: (rows, cols) bool.
        threshold: patches are high whose value reaches this share of the way from the lowest to the highest.

    Returns:
        In [0, 1].

    Example:
        >>> import torch
        >>> intersection_over_union(torch.tensor([[0.0, 5.0, 9.0]]), torch.tensor([[True, True, False]]))
        0.3333333333333333
    """
    scaled = (patch_map - patch_map.min()) / (patch_map.max() - patch_map.min())
    high = scaled >= threshold
    return float((high & inside).sum().double() / (high | inside).sum())


def iou(threshold: float = 0.5, *, name: str = "iou") -> Metric:
    """Make the metric for a threshold in [0, 1].

    Example:
        >>> iou(0.2, name="iou_low").parameters["threshold"]
        0.2
    """
    check_fraction("threshold", threshold)

    def measure(case: Case, patch_map: Tensor) -> Score:
        values = check_map(patch_map, case.layout.grid)
        return Score(intersection_over_union(values, check_object(case), threshold))

    return Metric(
        name=name,
        direction="higher",
        range=(0.0, 1.0),
        source="Leem and Seo, Attention Guided CAM, AAAI 2024",
        parameters={"threshold": threshold, "scale": "min-max"},
        needs=frozenset({"object"}),
        cost="no forward pass",
        measure=measure,
    )
