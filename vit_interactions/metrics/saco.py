"""SaCo: does a group of patches with higher values also lower the score more when it is replaced?

Source: Wu et al., On the Faithfulness of Vision Transformer Explanations, CVPR 2024 (arXiv 2404.01415), Algorithm 1:
the Salience-guided Faithfulness Coefficient. They rank pixels, and replace a group by the mean color of the image. Here
patches are ranked, and the color is that of `baseline`. Groups of patches cannot all have the same size, so a group's
salience and drop are per patch: the mean of its values instead of their sum, and the drop divided by its size. Else
larger groups would lead. For groups of equal size, the coefficient is that of the paper.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.pixel_scores import values_and_drops
from vit_interactions.utilities.checks import check_count


def faithfulness_coefficient(saliences: Tensor, drops: Tensor) -> float:
    """Compute Σ ± (s_i - s_j) / Σ |s_i - s_j| over pairs i < j: + if drop i is at least drop j, otherwise -.

    Args:
        saliences: (groups,), highest first, not all equal.
        drops: (groups,), of the score when the group is replaced.

    Returns:
        Value in [-1, 1].

    Example:
        >>> faithfulness_coefficient(torch.tensor([4.0, 2.0, 1.0]), torch.tensor([0.5, 0.0, 0.25]))
        0.6666666666666666
    """
    first, second = torch.triu_indices(len(saliences), len(saliences), 1, device="cpu")
    weights = (saliences[first] - saliences[second]).double()
    signed = torch.where(drops[first] >= drops[second], weights, -weights)
    return float(signed.sum() / weights.abs().sum())


def saco(baseline: str = "mean", groups: int = 10, *, name: str = "saco") -> Metric:
    """Create the metric.

    Args:
        baseline: replacement of a group's patches: "blur", "mean" or "zero".
        groups: number of groups, at most one per patch.
        name: name in tables.

    Example:
        >>> saco().cost
        '11 forward passes'
    """
    check_baseline(baseline)
    check_count("groups", groups)
    if groups < 2:
        raise ValueError(f"`groups` must be >= 2, got {groups}.")

    def measure(case: Case, patch_map: Tensor) -> Score:
        values = check_map(patch_map, case.layout.grid)
        ranks = relevance_ranks(values, case.seed)
        number = min(groups, values.numel())
        members = ranks * number // values.numel() == torch.arange(number, device="cpu")[:, None, None]
        return Score(faithfulness_coefficient(*values_and_drops(case, values, members, baseline)))

    return Metric(
        name=name,
        direction="higher",
        range=(-1.0, 1.0),
        source="Wu et al., On the Faithfulness of Vision Transformer Explanations, CVPR 2024",
        parameters={
            "baseline": baseline,
            "groups": groups,
            "unit": "patch",
            "score": "by `output`",
            "ties": "seeded",
        },
        needs=frozenset(),
        cost=f"{groups + 1} forward passes",
        measure=measure,
    )
