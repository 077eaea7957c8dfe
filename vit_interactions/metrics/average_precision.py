"""Average precision: do the patches on the object rank before the others?

Source: the area under the precision-recall curve, computed in steps as in information retrieval and scikit-learn; used
for maps by Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021, over pixels.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.localization_metric import localization_metric


def average_precision(patch_map: Tensor, inside: Tensor) -> float:
    """Compute Σ (R_n - R_{n-1}) P_n over the distinct values of the map, from the highest.

    P_n is the fraction inside among the patches with the n highest values; R_n is the fraction of all inside patches
    that are among them. Patches with equal values are taken together, so that their order does not matter.

    Args:
        patch_map: (rows, cols).
        inside: (rows, cols) bool, not all False.

    Returns:
        Value in (0, 1]. A random map scores about the fraction of the patches that are inside.

    Example:
        >>> average_precision(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[True, False, True]]))
        0.8333333333333333
    """
    level = torch.unique(patch_map, return_inverse=True)[1].flatten()
    found = torch.zeros(int(level.max()) + 1, dtype=torch.float64, device="cpu")
    hits = found.index_add(0, level, inside.flatten().double()).flip(0)
    taken = found.index_add(0, level, torch.ones_like(level, dtype=torch.float64)).flip(0).cumsum(0)
    return float((hits * hits.cumsum(0) / taken).sum() / hits.sum())


AVERAGE_PRECISION = localization_metric(
    "average_precision",
    average_precision,
    source="Chefer et al., CVPR 2021; over patches",
    parameters={"ties": "taken together"},
)
