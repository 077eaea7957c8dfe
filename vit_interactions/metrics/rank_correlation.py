"""Spearman's rank correlation of two maps."""

import torch
from torch import Tensor


def average_ranks(values: Tensor) -> Tensor:
    """Rank values from the lowest, 0; equal ones share the mean of their ranks.

    Args:
        values: any shape, finite.

    Returns:
        (values,) float64.

    Example:
        >>> average_ranks(torch.tensor([5.0, 1.0, 5.0]))
        tensor([1.5000, 0.0000, 1.5000], dtype=torch.float64)
    """
    _, level, count = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = (2 * count.cumsum(0) - count - 1).double() / 2
    return ranks[level.flatten()]


def spearman(first: Tensor, second: Tensor) -> float:
    """Compute the correlation of the ranks of two maps; NaN where one is constant.

    Args:
        first: finite values.
        second: of the same shape.

    Returns:
        In [-1, 1].

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([3.0, 4.0, 5.0]))
        1.0
    """
    one, other = (ranks - ranks.mean() for ranks in (average_ranks(first), average_ranks(second)))
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())
