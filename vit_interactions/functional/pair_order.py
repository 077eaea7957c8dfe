"""Order of patches by their pairs: nested sets of patches whose pairs have the largest, or the smallest, sum.

Second-order insertion and deletion compare the score of a model on such sets. Source: Baniecki et al., "Explaining
Similarity in Vision-Language Encoders with Weighted Banzhaf Interactions" (FIxLIP), NeurIPS 2025, arXiv 2508.05430, and
its published code. There, the value of a set S is ν(S) = Σ_i∈S φ_i + Σ_i<j∈S φ_ij, and S grows by the player v with the
largest (insertion) or smallest (deletion) gain φ_v + Σ_u∈S φ_uv.

Two adaptations: pair maps have no main effects, so φ_i = 0; and the search starts once, from the best pair, where the
code starts from many players and keeps the best set of each size. So sets of any size are nested.
"""

import numpy as np
import torch
from torch import Tensor

from vit_interactions.utilities.arrays import Array


def greedy_pair_order(pair_map: Tensor, *, lowest: bool = False, seed: int = 0) -> Tensor:
    """Order patches so that the pairs among the first ones have the largest sum that a greedy search finds.

    It starts from the best pair and adds the patch whose pairs with those already chosen have the largest sum. It takes
    patches² operations.

    Args:
        pair_map: (patches, patches). A pair has the value (m_ij + m_ji) / 2; the diagonal is not used.
        lowest: start from the pair with the lowest value and add the patch with the smallest sum instead.
        seed: of the order of ties. Ties in reading order would favor the top of the image.

    Returns:
        (patches,) int64 on the CPU, a permutation of 0 ... patches - 1.

    Raises:
        ValueError: a map that is not square or is not finite.

    Example:
        >>> pairs = torch.tensor([[0, 1, 0, 3], [1, 0, 9, 0], [0, 9, 0, 2], [3, 0, 2, 0]])
        >>> greedy_pair_order(pairs)[2:]  # after 1 and 2: patch 3 adds 0 + 2, patch 0 adds 1 + 0
        tensor([3, 0])
    """
    patches = len(pair_map)
    if pair_map.shape != (patches, patches) or not patches:
        raise ValueError(f"`pair_map` must have shape (patches, patches), got {tuple(pair_map.shape)}.")
    values = pair_map.detach().to("cpu", torch.float64)
    if not values.isfinite().all():
        raise ValueError("`pair_map` must be finite, got NaN or infinite values.")
    drawn = torch.randperm(patches, generator=torch.Generator().manual_seed(seed), device="cpu")
    # NumPy, unlike torch, promises the first of equal values.
    sums: Array = (values + values.T)[drawn][:, drawn].numpy()
    sums = -sums if lowest else sums
    np.fill_diagonal(sums, -np.inf)
    order = list(divmod(int(sums.argmax()), patches))[:patches]
    gains: Array = sums[order].sum(0)
    for _ in range(patches - 2):
        order.append(int(gains.argmax()))
        gains += sums[order[-1]]
    return drawn[order]
