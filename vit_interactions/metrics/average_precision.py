"""Average precision: do the patches on the object rank before the others?

Source: the area below the precision-recall curve by steps, as in information retrieval and scikit-learn; used for maps
by Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021, over pixels.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.object import check_object
from vit_interactions.metrics.patch_map import check_map


def average_precision(patch_map: Tensor, inside: Tensor) -> float:
    """Compute Σ (R_n - R_{n-1}) P_n over the distinct values of the map, from the highest.

    P_n is the share inside among the patches of the n highest values, R_n their share of all that are inside. Equal
    values are taken together, so that their order plays no part.

    Args:
        patch_map: (rows, cols).
        inside: (rows, cols) bool, not all False.

    Returns:
        In (0, 1]. A random map gives about the share of the patches that are inside.

    Example:
        >>> average_precision(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[True, False, True]]))
        0.8333333333333333
    """
    level = torch.unique(patch_map, return_inverse=True)[1].flatten()
    found = torch.zeros(int(level.max()) + 1, dtype=torch.float64, device="cpu")
    hits = found.index_add(0, level, inside.flatten().double()).flip(0)
    taken = found.index_add(0, level, torch.ones_like(level, dtype=torch.float64)).flip(0).cumsum(0)
    return float((hits * hits.cumsum(0) / taken).sum() / hits.sum())


def _measure(case: Case, patch_map: Tensor) -> Score:
    return Score(average_precision(check_map(patch_map, case.layout.grid), check_object(case)))


AVERAGE_PRECISION = Metric(
    name="average_precision",
    direction="higher",
    range=(0.0, 1.0),
    source="Chefer et al., CVPR 2021; over patches",
    parameters={"ties": "taken together"},
    needs=frozenset({"object"}),
    cost="no forward pass",
    measure=_measure,
)
