"""Compare a pair map with the effects of pairs: symmetric values, distances, and rank correlations.

Partial rank correlation: the correlation of the residuals of both variables after a linear regression of their ranks
on the ranks of the covariates (Quade, "Nonparametric partial correlation", 1974; as in `pingouin.partial_corr`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from vit_interactions.utilities.arrays import Array

LEAST = 1e-9  # fraction of a variable's spread below which the residual is rounding error


def pair_values(pair_map: Tensor, pairs: Tensor) -> Tensor:
    """Return the symmetric value of each pair, (m_ij + m_ji) / 2.

    Args:
        pair_map: (patches, patches).
        pairs: (pairs, 2) integers.

    Returns:
        (pairs,) float64.

    Example:
        >>> pair_values(torch.tensor([[0.0, 1.0], [3.0, 0.0]]), torch.tensor([[0, 1]]))
        tensor([2.], dtype=torch.float64)
    """
    first, second = pairs.to(pair_map.device).unbind(1)
    return (pair_map[first, second].double() + pair_map[second, first].double()) / 2


def pair_products(patch_map: Tensor, pairs: Tensor) -> Tensor:
    """Return |m_i m_j| of each pair, the product of the values that a map gives to both patches.

    Args:
        patch_map: (patches,).
        pairs: (pairs, 2) integers.

    Returns:
        (pairs,) float64.

    Example:
        >>> pair_products(torch.tensor([2.0, -3.0]), torch.tensor([[0, 1]]))
        tensor([6.], dtype=torch.float64)
    """
    return patch_map.double()[pairs.to(patch_map.device)].prod(1).abs()


def pair_distances(pairs: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the Euclidean distance between the patches of each pair, in patches.

    Args:
        pairs: (pairs, 2) integers.
        grid: (rows, cols) of the patches.

    Returns:
        (pairs,) float64.

    Example:
        >>> pair_distances(torch.tensor([[0, 14]]), (10, 10))  # one row down, four columns right
        tensor([4.1231], dtype=torch.float64)
    """
    places = torch.stack((pairs // grid[1], pairs % grid[1]), -1).double()
    distances: Tensor = torch.linalg.vector_norm(places[:, 0] - places[:, 1], dim=-1)
    return distances


def rank_correlation(first: Tensor, second: Tensor, covariates: Sequence[Tensor] = ()) -> float:
    """Compute Spearman's correlation, with covariates partialled out.

    Args:
        first: (pairs,).
        second: (pairs,).
        covariates: (pairs,) each; ranks of `first` and `second` are regressed on their ranks.

    Returns:
        In [-1, 1]. NaN if a variable is constant, or its residual is zero.

    Example:
        >>> value, distance = torch.tensor([1.0, 2.0, 4.0, 3.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> round(rank_correlation(value, distance), 3), round(rank_correlation(value, value, [distance]), 3)
        (0.8, 1.0)
    """
    ranks = [_centered_ranks(values) for values in (first, second, *covariates)]
    left = []
    for values in ranks[:2]:
        rest = values
        if covariates:
            design = np.stack(ranks[2:], 1)
            rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        norm = float(np.linalg.norm(rest))
        if norm <= LEAST * float(np.linalg.norm(values)):
            return float("nan")
        left.append(rest / norm)
    return float(np.clip(left[0] @ left[1], -1.0, 1.0))


def _centered_ranks(values: Tensor) -> Array:
    ranks: Array = rankdata(values.detach().double().cpu().numpy())
    centered: Array = ranks - ranks.mean()
    return centered
