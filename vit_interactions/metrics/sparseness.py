"""Sparseness: is the map concentrated in a few patches?

Source: Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training, ICML 2020: the Gini index
of the absolute values, as in Hurley and Rickard, Comparing Measures of Sparsity, IEEE Transactions on Information
Theory 2009. It describes a map and does not judge it: one wrong patch is the sparsest map. So neither end is better
here, while Chalasani et al. prefer sparse maps.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map


def gini_index(values: Tensor) -> float:
    """Compute Σ (2 i - n - 1) |v_i| / (n Σ |v_i|) over the n absolute values in ascending order, i = 1 ... n.

    Args:
        values: of any shape, not all 0.

    Returns:
        Value in [0, 1 - 1/n]: 0 if all absolute values are equal, 1 - 1/n if all but one are 0. Uniform random numbers
        have an index of about 1/3.

    Example:
        >>> gini_index(torch.tensor([[0.0, 0.0], [0.0, -5.0]])), gini_index(torch.tensor([1.0, -1.0]))
        (0.75, 0.0)
    """
    sizes = values.flatten().double().abs().sort().values
    count = len(sizes)
    weights = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=sizes.device) - count - 1
    return float((weights * sizes).sum() / (count * sizes.sum()))


def _measure(case: Case, patch_map: Tensor) -> Score:
    return Score(gini_index(check_map(patch_map, case.layout.grid)))


SPARSENESS = Metric(
    name="sparseness",
    direction="none",
    range=(0.0, 1.0),
    source="Chalasani et al., ICML 2020; Hurley and Rickard, 2009",
    parameters={"index": "Gini", "values": "absolute"},
    needs=frozenset(),
    cost="no forward pass",
    measure=_measure,
)
