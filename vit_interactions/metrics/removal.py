"""Curves of the model's score while patches are removed or shown one after the other, and the area below them."""

from collections.abc import Callable

import torch
from torch import Tensor

Ask = Callable[[Tensor], Tensor]


def patch_counts(patches: int, steps: int) -> Tensor:
    """Divide the patches into steps as equal as whole patches allow.

    Returns:
        (points,) int64, from 0 to `patches`; steps + 1 points, or fewer where there are fewer patches than steps.

    Example:
        >>> patch_counts(10, 4)
        tensor([ 0,  2,  5,  8, 10])
    """
    return torch.tensor(sorted({round(step * patches / steps) for step in range(steps + 1)}), device="cpu")


def deletion_curve(ranks: Tensor, steps: int, ask: Ask) -> Tensor:
    """Remove the most relevant patches first (MoRF).

    Args:
        ranks: (rows, cols), 0 the most relevant; as of `patch_map.relevance_ranks`.
        steps: into how many the patches are divided.
        ask: computes (images,) scores from the patches that are shown, (images, rows, cols) bool.

    Returns:
        (points, 2) float64 of (share of the patches that is removed, score).
    """
    counts = patch_counts(ranks.numel(), steps)
    return _curve(counts, ask(ranks >= counts[:, None, None]))


def insertion_curve(ranks: Tensor, steps: int, ask: Ask) -> Tensor:
    """Show the most relevant patches first; arguments as of `deletion_curve`.

    Returns:
        (points, 2) float64 of (share of the patches that is shown, score).
    """
    counts = patch_counts(ranks.numel(), steps)
    return _curve(counts, ask(ranks < counts[:, None, None]))


def least_first_curve(ranks: Tensor, steps: int, ask: Ask) -> Tensor:
    """Remove the least relevant patches first (LeRF); arguments as of `deletion_curve`.

    Returns:
        (points, 2) float64 of (share of the patches that is removed, score).
    """
    counts = patch_counts(ranks.numel(), steps)
    return _curve(counts, ask(ranks < ranks.numel() - counts[:, None, None]))


def _curve(counts: Tensor, scores: Tensor) -> Tensor:
    return torch.stack([counts.double() / counts[-1], scores.double()], dim=1)


def area(curve: Tensor) -> float:
    """Compute the area below a curve (points, 2) by the trapezoid rule.

    Example:
        >>> area(torch.tensor([[0.0, 1.0], [0.5, 0.0], [1.0, 0.0]]))
        0.25
    """
    return float(torch.trapezoid(curve[:, 1], curve[:, 0]))
