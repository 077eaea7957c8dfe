"""Curves of the model's score while patches are removed or shown in order of relevance, and the area under them."""

from collections.abc import Callable

import torch
from torch import Tensor

ScorePatches = Callable[[Tensor], Tensor]


def patch_counts(patches: int, steps: int) -> Tensor:
    """Divide the patches into steps of equal size, up to rounding.

    Returns:
        (points,) int64, from 0 to `patches`; steps + 1 points, or fewer if there are fewer patches than steps.

    Example:
        >>> patch_counts(10, 4)
        tensor([ 0,  2,  5,  8, 10])
    """
    return torch.tensor(sorted({round(step * patches / steps) for step in range(steps + 1)}), device="cpu")


def patch_count(fraction: float, patches: int) -> int:
    """Return the number of patches in a fraction of all: at least one, and not all.

    Example:
        >>> patch_count(0.3, 10), patch_count(0.0, 10), patch_count(1.0, 10)
        (3, 1, 9)
    """
    return min(max(round(fraction * patches), 1), patches - 1)


def deletion_curve(ranks: Tensor, steps: int, score: ScorePatches) -> Tensor:
    """Remove the most relevant patches first (MoRF).

    Args:
        ranks: (rows, cols), 0 is the most relevant; see `patch_map.relevance_ranks`.
        steps: number of steps.
        score: computes (images,) scores from the patches that are shown, (images, rows, cols) bool.

    Returns:
        (points, 2) float64: fraction of the patches removed, score.
    """
    counts = patch_counts(ranks.numel(), steps)
    return _curve(counts, score(ranks >= counts[:, None, None]))


def insertion_curve(ranks: Tensor, steps: int, score: ScorePatches) -> Tensor:
    """Show the most relevant patches first; for the arguments see `deletion_curve`.

    Returns:
        (points, 2) float64: fraction of the patches shown, score.
    """
    counts = patch_counts(ranks.numel(), steps)
    return _curve(counts, score(ranks < counts[:, None, None]))


def lerf_curve(ranks: Tensor, steps: int, score: ScorePatches) -> Tensor:
    """Remove the least relevant patches first (LeRF); for the arguments see `deletion_curve`.

    Returns:
        (points, 2) float64: fraction of the patches removed, score.
    """
    counts = patch_counts(ranks.numel(), steps)
    return _curve(counts, score(ranks < ranks.numel() - counts[:, None, None]))


def _curve(counts: Tensor, scores: Tensor) -> Tensor:
    return torch.stack([counts.double() / counts[-1], scores.double()], dim=1)


def area_under_curve(curve: Tensor) -> float:
    """Integrate a curve (points, 2) with the trapezoidal rule.

    Example:
        >>> area_under_curve(torch.tensor([[0.0, 1.0], [0.5, 0.0], [1.0, 0.0]]))
        0.25
    """
    return float(torch.trapezoid(curve[:, 1], curve[:, 0]))
