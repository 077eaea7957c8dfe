"""Which pairs of patches are relevant at every α of a slider, in one byte a pair.

Pairs enter the relevant ones in a fixed order as α grows, so that the first step of the slider at which a pair is
relevant says all: the page needs no values of U to find windows exactly as `functional.windows` does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 250  # of α


@dataclass(frozen=True, eq=False)
class Ladder:
    """The steps of both sliders, and what is relevant from each α on.

    Attributes:
        alphas: of the slider, ascending from 0 to 1.
        betas: likewise.
        steps: (patches, patches), from `first_relevant`.
        values: (alphas,), from `step_values`.
    """

    alphas: list[float]
    betas: list[float]
    steps: NDArray[np.uint8]
    values: NDArray[np.float64]


def climb(uncertainty: Tensor, alpha: float, beta: float) -> Ladder:
    """Find for U (patches, patches) of one image what is relevant at every step of sliders with α and β among them.

    Example:
        >>> ladder = climb(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 0.25, 0.2)
        >>> int(ladder.steps[0, 0]), ladder.alphas[1]
        (1, 0.25)
    """
    alphas = alpha_steps(alpha, uncertainty.numel())
    steps = first_relevant(uncertainty, alphas)
    return Ladder(alphas, beta_steps(beta), steps, step_values(uncertainty, steps, len(alphas)))


def alpha_steps(alpha: float, pairs: int) -> list[float]:
    """List the α of a slider: 0, then in even ratios from one pair to all, and the wanted one among them.

    Args:
        alpha: in [0, 1].
        pairs: how many pairs of patches there are.

    Returns:
        At most 256, ascending from 0 to 1.

    Example:
        >>> steps = alpha_steps(0.123456, 38_416)
        >>> steps[:2], steps[-1], 0.123456 in steps, len(steps)
        ([0.0, 2.6e-05], 1.0, True, 252)
    """
    even = (float(f"{share:.3g}") for share in np.geomspace(1 / pairs, 1.0, STEPS))
    return sorted({0.0, *even, 1.0, float(alpha)})


def beta_steps(beta: float) -> list[float]:
    """List the β of a slider: every hundredth, and the wanted one among them.

    Example:
        >>> beta_steps(0.205)[19:23]
        [0.19, 0.2, 0.205, 0.21]
    """
    return sorted({*(step / 100 for step in range(101)), float(beta)})


def first_relevant(uncertainty: Tensor, alphas: list[float]) -> NDArray[np.uint8]:
    """Find for every pair the first of the α at which it is among the relevant ones.

    Args:
        uncertainty: U (patches, patches) of one image.
        alphas: at most 256, ascending from 0 to 1.

    Returns:
        (patches, patches): `relevant_pairs(U, alphas[k])` are the pairs whose value is at most k.

    Example:
        >>> first_relevant(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), [0.0, 0.25, 0.75, 1.0])
        array([[1, 2],
               [3, 2]], dtype=uint8)
    """
    pairs = uncertainty.numel()
    order = uncertainty.detach().flatten().argsort(descending=True, stable=True).cpu()
    rank = torch.empty(pairs, dtype=torch.int64, device="cpu")
    rank[order] = torch.arange(pairs, device="cpu")
    wanted = torch.tensor([round(alpha * pairs) for alpha in alphas], device="cpu")
    steps: NDArray[np.uint8] = torch.searchsorted(wanted, rank, right=True).to(torch.uint8).numpy()
    return steps.reshape(tuple(uncertainty.shape))


def step_values(uncertainty: Tensor, steps: NDArray[np.uint8], count: int) -> NDArray[np.float64]:
    """Compute the mean U of the pairs of each step, by which the page shows U; nan where a step has no pair.

    Args:
        uncertainty: U (patches, patches) of one image.
        steps: from `first_relevant`.
        count: how many α there are.

    Returns:
        (count,), falling.

    Example:
        >>> step_values(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), np.array([[1, 2], [2, 2]], np.uint8), 3)
        array([       nan, 3.        , 1.33333333])
    """
    values = uncertainty.detach().cpu().double().numpy().ravel()
    pairs = np.bincount(steps.ravel(), minlength=count)
    sums = np.bincount(steps.ravel(), weights=values, minlength=count)
    means = np.full(count, np.nan)
    means[pairs > 0] = sums[pairs > 0] / pairs[pairs > 0]
    return means


def worst_error(uncertainty: Tensor, steps: NDArray[np.uint8], values: NDArray[np.float64]) -> float:
    """Compute how far the shown U of any pair is from its own, as a share of the largest U."""
    exact = uncertainty.detach().cpu().double().numpy()
    largest = float(exact.max())
    return float(np.abs(values[steps] - exact).max() / largest) if largest > 0 else 0.0
