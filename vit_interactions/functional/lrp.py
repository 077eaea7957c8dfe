"""Layer-wise relevance propagation as modified derivatives: relevance is gradient times input.

A rule maps the gradient at the output of an operation to a modified gradient at its input, such that the sum of input
times gradient equals output times gradient, if the operation has no bias.

Source: Achtibat et al., "AttnLRP", ICML 2024, Section 3; Ali et al., "XAI for Transformers: Better Explanations
through Conservative Propagation", ICML 2022 (normalization); Montavon et al., "Layer-Wise Relevance Propagation: An
Overview", 2019 (γ), with positive and negative outputs distinguished as in zennit's `Gamma`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.functional.attention import at_least_float32

LinearOperation = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def elementwise_rule(gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Compute gradient · y / x, or 0 where x is 0: x gets all relevance of y = f(x).

    Example:
        >>> elementwise_rule(torch.ones(3), torch.tensor([-2.0, 0.0, 4.0]), torch.tensor([0.5, 0.0, 2.0]))
        tensor([-0.2500,  0.0000,  0.5000])
    """
    gradient, x, y = map(at_least_float32, (gradient, x, y))
    return gradient * torch.where(x == 0, 0.0, y / x)


def layer_norm_rule(gradient: Tensor, x: Tensor, weight: Tensor | None, axes: int, eps: float) -> Tensor:
    """Compute the gradient of (x - mean) / std · weight with constant std.

    Args:
        gradient: same shape as x.
        x: (..., normalized axes).
        weight: (normalized axes) or None.
        axes: number of last axes that are normalized.
        eps: added to the variance.

    Example:
        >>> layer_norm_rule(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 2.0]), None, axes=1, eps=0.0)
        tensor([ 0.2500, -0.2500])
    """
    over = tuple(range(-axes, 0))
    gradient, x = at_least_float32(gradient), at_least_float32(x)
    if weight is not None:
        gradient = gradient * weight
    std = (x.var(over, correction=0, keepdim=True) + eps).sqrt()
    return (gradient - gradient.mean(over, keepdim=True)) / std


def group_norm_rule(gradient: Tensor, x: Tensor, groups: int, weight: Tensor | None, eps: float) -> Tensor:
    """Compute the gradient of group normalization with constant standard deviations.

    Args:
        gradient: same shape as x.
        x: (batch, channels, ...).
        groups: number of groups of channels.
        weight: (channels,) or None.
        eps: added to the variance.

    Example:
        >>> group_norm_rule(torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 2.0]]), 1, None, eps=0.0)
        tensor([[ 0.2500, -0.2500]])
    """
    if weight is not None:
        gradient = gradient * weight.view(-1, *[1] * (x.ndim - 2))
    shape = (x.shape[0], groups, -1)
    return layer_norm_rule(gradient.reshape(shape), x.reshape(shape), None, axes=1, eps=eps).reshape(x.shape)


def rms_norm_rule(gradient: Tensor, x: Tensor, weight: Tensor | None, axes: int, eps: float | None) -> Tensor:
    """Compute the gradient of x / rms · weight with constant rms.

    Args:
        gradient: same shape as x.
        x: (..., normalized axes).
        weight: (normalized axes) or None.
        axes: number of last axes that are normalized.
        eps: added to the mean square; None: the type's machine epsilon, as in torch.

    Example:
        >>> rms_norm_rule(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 2.0]), None, axes=1, eps=0.0)
        tensor([0.5000, 0.0000])
    """
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    gradient, x = at_least_float32(gradient), at_least_float32(x)
    if weight is not None:
        gradient = gradient * weight
    return gradient / (x.square().mean(tuple(range(-axes, 0)), keepdim=True) + eps).sqrt()


def normalize_rule(gradient: Tensor, x: Tensor, p: float, dim: int | tuple[int, ...], eps: float) -> Tensor:
    """Compute the gradient of x / max(‖x‖, eps) with constant norm.

    Args:
        gradient: same shape as x.
        x: the input.
        p: exponent of the norm.
        dim: axes of the norm.
        eps: lower bound of the divisor.

    Example:
        >>> normalize_rule(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]), 2.0, dim=0, eps=1e-12)
        tensor([0.2000, 0.0000])
    """
    gradient, x = at_least_float32(gradient), at_least_float32(x)
    norm: Tensor = torch.linalg.vector_norm(x, p, dim, keepdim=True)
    return gradient / norm.clamp_min(eps)


@torch.no_grad()
def gamma_rule(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: float,
    operation: LinearOperation = F.linear,
    output: Tensor | None = None,
) -> Tensor:
    """Compute the gradient of a linear operation with the γ-rule, which favors contributions with the output's sign.

    With c_ij = x_i w_ij and z_j = Σ_i c_ij + b_j, an output z_j > 0 is distributed in proportion to
    c_ij + γ max(c_ij, 0), an output z_j < 0 to c_ij + γ min(c_ij, 0), and the bias in the same way. γ = 0 is the plain
    derivative, the ε-rule without ε. An input of 0, which has no relevance, gets the factor of a small positive input.

    Args:
        gradient: same shape as the output.
        x: the input.
        weight: weight of the operation.
        bias: bias of the operation; its part of the relevance is dropped.
        gamma: ≥ 0.
        operation: computes the output from x, weight and bias: `F.linear` or a convolution.
        output: the output, if known; it is computed again if it has a lower precision than the result.

    Returns:
        Same shape as x, at least float32.

    Example:
        >>> x, weight = torch.tensor([2.0, 1.0]), torch.tensor([[1.0, -1.0]])
        >>> gamma_rule(torch.tensor([1.0]), x, weight, None, gamma=1.0) * x  # z = 1 = 4/3 - 1/3
        tensor([ 1.3333, -0.3333])
    """
    gradient, x, weight = map(at_least_float32, (gradient, x, weight))
    bias = None if bias is None else at_least_float32(bias)
    z = operation(x, weight, bias) if output is None or output.dtype != x.dtype else output

    def back(weight: Tensor, passed: Tensor) -> Tensor:
        if operation is F.linear:
            return passed @ weight
        with torch.enable_grad():
            point = torch.zeros_like(x).requires_grad_()
            return torch.autograd.grad(operation(point, weight, None), point, passed)[0]

    # 2 max(c, 0) = c + |c|, 2 min(c, 0) = c - |c|. So with a = Σ |x| |w| + |b|, k = γ / (2 + γ), r = z / (|z| + k a),
    # the rule is Wᵀ (g |r|) + k sign(x) |W|ᵀ (g r): one product more forward and backward than the plain derivative.
    k, sizes = gamma / (2 + gamma), weight.abs()
    # In place where possible: passes over memory cost as much as a product.
    total = operation(x.abs(), sizes, None if bias is None else bias.abs()).mul_(k).add_(z.abs())
    ratio = torch.div(z, total.clamp_(min=torch.finfo(total.dtype).tiny), out=total)  # 0 / 0 is 0
    favored = back(sizes, gradient * ratio).mul_(k)
    favored = torch.where(x < 0, -favored, favored)
    return favored.add_(back(weight, ratio.abs_().mul_(gradient)))


def check_gamma(name: str, value: float | None) -> None:
    """Raise ValueError unless `value` is None or a finite number ≥ 0."""
    if value is not None and (isinstance(value, bool) or not 0.0 <= value < math.inf):
        raise ValueError(f"`{name}` must be None or a finite number >= 0, got {value}.")
