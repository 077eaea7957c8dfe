"""The check of a map that all metrics share, and the ranks of its patches."""

import torch
from torch import Tensor


def check_map(patch_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the map as float64 on the CPU; raise an error unless it is finite, not constant, and has this grid.

    Args:
        patch_map: (rows, cols).
        grid: (rows, cols) of the model's patches.

    Raises:
        ValueError: another shape, NaN or infinite values, or a constant map.

    Example:
        >>> check_map(torch.ones(1, 2), (1, 2))
        Traceback (most recent call last):
        ...
        ValueError: the map has the same value, 1, at all 2 patches, so it does not rank them.
    """
    if tuple(patch_map.shape) != tuple(grid):
        raise ValueError(f"`patch_map` must have shape {tuple(grid)}, got {tuple(patch_map.shape)}.")
    values = patch_map.detach().to("cpu", torch.float64)
    check_finite(values)
    if values.min() == values.max():
        raise ValueError(
            f"the map has the same value, {values.min():g}, at all {values.numel()} patches, so it does not rank them."
        )
    return values


def check_finite(patch_map: Tensor) -> None:
    """Raise ValueError if a map has NaN or infinite values; the error counts them."""
    bad = int((~patch_map.isfinite()).sum())
    if bad:
        raise ValueError(f"the map has NaN or infinite values at {bad} of {patch_map.numel()} patches.")


def relevance_ranks(patch_map: Tensor, seed: int) -> Tensor:
    """Rank the patches from the most relevant, 0, to the least relevant, with ties in random order.

    Ties in reading order would favor the top of the image.

    Args:
        patch_map: (rows, cols).
        seed: random seed of the order of ties.

    Returns:
        (rows, cols) int64, a permutation of 0 ... patches - 1.

    Example:
        >>> relevance_ranks(torch.tensor([[0.2, 0.9, 0.5]]), seed=0)
        tensor([[2, 0, 1]])
    """
    values = patch_map.flatten()
    drawn = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed), device="cpu")
    order = drawn[values[drawn].argsort(descending=True, stable=True)]
    return order.argsort().reshape(patch_map.shape)
