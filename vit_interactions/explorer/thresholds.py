"""Compute which pairs of patches are relevant at every α of a slider, in one byte per pair.

As α grows, pairs become relevant in a fixed order, so the page only stores the first slider step at which each pair is
relevant. From that it computes windows exactly as `functional.windows` does, without U.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 250  # of α


@dataclass(frozen=True, eq=False)
class SliderSteps:
    """The steps of both sliders, and the pairs that become relevant at each α.

    Attributes:
        alphas: values of the α slider, ascending from 0 to 1.
        betas: values of the β slider, ascending from 0 to 1.
        steps: (patches, patches), from `first_relevant_step`.
        values: (alphas,), from `step_means`.
    """

    alphas: list[float]
    betas: list[float]
    steps: NDArray[np.uint8]
    values: NDArray[np.float64]


def slider_steps(uncertainty: Tensor, alpha: float, beta: float, exclude: Tensor | None = None) -> SliderSteps:
    """Compute the slider steps for U (patches, patches) of one image, with α and β among them.

    Pairs of excluded columns, (patches,) bool, have a step after the last, and the value 0.

    Example:
        >>> sliders = slider_steps(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 0.25, 0.2)
        >>> int(sliders.steps[0, 0]), sliders.alphas[1]
        (1, 0.25)
    """
    alphas = alpha_steps(alpha, uncertainty.numel())
    if exclude is None or not exclude.any():
        steps = first_relevant_step(uncertainty, alphas)
        return SliderSteps(alphas, beta_steps(beta), steps, step_means(uncertainty, steps, len(alphas)))
    steps = first_relevant_step(uncertainty.masked_fill(exclude, -torch.inf), alphas)
    steps[:, exclude.numpy()] = len(alphas)
    return SliderSteps(alphas, beta_steps(beta), steps, step_means(uncertainty, steps, len(alphas) + 1))


def alpha_steps(alpha: float, pairs: int) -> list[float]:
    """Return the values of the α slider: 0, a geometric sequence from one pair to all, and the initial α.

    Args:
        alpha: initial α, in [0, 1].
        pairs: number of pairs of patches.

    Returns:
        At most 256 values, ascending from 0 to 1.

    Example:
        >>> steps = alpha_steps(0.123456, 38_416)
        >>> steps[:2], steps[-1], 0.123456 in steps, len(steps)
        ([0.0, 2.6e-05], 1.0, True, 252)
    """
    even = (float(f"{share:.3g}") for share in np.geomspace(1 / pairs, 1.0, STEPS))
    return sorted({0.0, *even, 1.0, float(alpha)})


def beta_steps(beta: float) -> list[float]:
    """Return the values of the β slider: every hundredth, and the initial β.

    Example:
        >>> beta_steps(0.205)[19:23]
        [0.19, 0.2, 0.205, 0.21]
    """
    return sorted({*(step / 100 for step in range(101)), float(beta)})


def first_relevant_step(uncertainty: Tensor, alphas: list[float]) -> NDArray[np.uint8]:
    """Compute the first slider step at which each pair is relevant.

    Args:
        uncertainty: (patches, patches), U of one image.
        alphas: at most 256, ascending from 0 to 1.

    Returns:
        (patches, patches); `relevant_pairs(U, alphas[k])` are the pairs with values <= k.

    Example:
        >>> first_relevant_step(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), [0.0, 0.25, 0.75, 1.0])
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


def step_means(uncertainty: Tensor, steps: NDArray[np.uint8], count: int) -> NDArray[np.float64]:
    """Compute the mean U of the pairs of each step, which the page shows; NaN for steps without pairs.

    Args:
        uncertainty: (patches, patches), U of one image.
        steps: from `first_relevant_step`.
        count: number of steps.

    Returns:
        (count,), decreasing.

    Example:
        >>> step_means(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), np.array([[1, 2], [2, 2]], np.uint8), 3)
        array([       nan, 3.        , 1.33333333])
    """
    values = uncertainty.detach().cpu().double().numpy().ravel()
    pairs = np.bincount(steps.ravel(), minlength=count)
    sums = np.bincount(steps.ravel(), weights=values, minlength=count)
    means = np.full(count, np.nan)
    means[pairs > 0] = sums[pairs > 0] / pairs[pairs > 0]
    return means


def largest_error(uncertainty: Tensor, steps: NDArray[np.uint8], values: NDArray[np.float64]) -> float:
    """Compute the largest error of the shown U, relative to the maximum of U."""
    exact = uncertainty.detach().cpu().double().numpy()
    largest = float(exact.max())
    return float(np.abs(values[steps] - exact).max() / largest) if largest > 0 else 0.0
