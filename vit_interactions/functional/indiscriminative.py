"""Indiscriminative patches: those that matter equally to all other patches, mostly empty background.

Source: Ma et al., arXiv 2203.05922, Sec. 4.2.
"""

import torch
from torch import Tensor

from vit_interactions.functional.attention import at_least_float32
from vit_interactions.utilities.checks import check_excluded, check_fraction, check_uncertainty


def informativeness(uncertainty: Tensor) -> Tensor:
    """Compute the mean of each column of U: how informative a patch is to the others (Sec. 4.2).

    Args:
        uncertainty: U (batch, patches, patches).

    Returns:
        (batch, patches) >= 0, at least float32.

    Raises:
        ValueError: `uncertainty` has another shape or is not finite.

    Example:
        >>> informativeness(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]]))
        tensor([[1., 1.]])
    """
    check_uncertainty(uncertainty)
    return at_least_float32(uncertainty).mean(dim=1)


def column_variance(uncertainty: Tensor) -> Tensor:
    """Compute the population variance of each column of U: how differently a patch matters to the others (Sec. 4.2).

    For arguments, result and errors see `informativeness`.

    Example:
        >>> column_variance(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]]))
        tensor([[1., 0.]])
    """
    check_uncertainty(uncertainty)
    return _column_variance(uncertainty)


def _column_variance(uncertainty: Tensor) -> Tensor:
    return at_least_float32(uncertainty).var(dim=1, correction=0)


def indiscriminative_patches(uncertainty: Tensor, beta: float = 0.20, exclude: Tensor | None = None) -> Tensor:
    """Find D, the round(β N) patches whose column of U has the lowest variance.

    Ties are broken by the lowest index, so that the result does not depend on the device.

    Args:
        uncertainty: U (batch, patches, patches).
        beta: fraction of the patches to drop, in [0, 1]. The paper's best: 0.20.
        exclude: (batch, patches) bool, patches that are not ranked and never dropped, such as attention sinks; None for
            none.

    Returns:
        (batch, patches) bool: True if the patch is dropped.

    Raises:
        ValueError: `uncertainty` has another shape or is not finite, `beta` is outside [0, 1], or `exclude` has another
            shape.

    Example:
        >>> indiscriminative_patches(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]]), beta=0.5)
        tensor([[False,  True]])
    """
    check_uncertainty(uncertainty)
    return uniform_columns(uncertainty, beta, exclude)


def uniform_columns(uncertainty: Tensor, beta: float, exclude: Tensor | None) -> Tensor:
    """Find D of a finite U without waiting for the device; see `indiscriminative_patches`."""
    check_fraction("beta", beta)
    check_excluded(exclude, uncertainty)
    variance = _column_variance(uncertainty)
    ranked = variance if exclude is None else variance.masked_fill(exclude, torch.inf)
    lowest = ranked.argsort(dim=1, stable=True)[:, : round(beta * variance.shape[1])]
    dropped = torch.zeros_like(variance, dtype=torch.bool).scatter(1, lowest, True)
    return dropped if exclude is None else dropped & ~exclude
