"""The check that all metrics make of a map, and the order of its patches."""

import torch
from torch import Tensor


def check_map(patch_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the map as float64 on the CPU; raise unless it is finite, not constant, and of this grid.

    Args:
        patch_map: (rows, cols).
        grid: (rows, cols) of the model's patches.

    Raises:
        ValueError: another shape, NaN or infinite values, or the same value everywhere.

    Example:
        >>> check_map(torch.ones(1, 2), (1, 2))
        Traceback (most recent call last):
        ...
        ValueError: the map has the same value, 1, at all 2 patches, so that it ranks none above another.
    """
    if tuple(patch_map.shape) != tuple(grid):
        raise ValueError(f"`patch_map` must have shape {tuple(grid)}, but got {tuple(patch_map.shape)}.")
    values = patch_map.detach().to("cpu", torch.float64)
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"the map has NaN or infinite values at {bad} of {values.numel()} patches.")
    if values.min() == values.max():
        raise ValueError(
            f"the map has the same value, {values.min():g}, at all {values.numel()} patches, so that it ranks none "
            "above another."
        )
    return values


def relevance_ranks(patch_map: Tensor, seed: int) -> Tensor:
    """Number the patches from the most relevant, 0, to the least; equal ones in an order drawn by the seed.

    Reading order would favour the top of the photograph in every map with ties.

    Args:
        patch_map: (rows, cols).
        seed: of the order among equals.

    Returns:
        (rows, cols) int64, each of 0 ... patches - 1 once.

    Example:
        >>> relevance_ranks(torch.tensor([[0.2, 0.9, 0.5]]), seed=0)
        tensor([[2, 0, 1]])
    """
    values = patch_map.flatten()
    drawn = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed), device="cpu")
    order = drawn[values[drawn].argsort(descending=True, stable=True)]
    return order.argsort().reshape(patch_map.shape)
