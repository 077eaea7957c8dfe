"""The published relevance rules of transformer attribution, written out for one image."""

import torch
from torch import Tensor


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Compute a / b with x / 0 = 0."""
    return torch.where(b == 0, torch.zeros_like(b), a / b)


def slow_linear(relevance: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Share relevance (tokens, outputs) in proportion to the positive contributions, each written out."""
    positive = (x[:, None, :] * weight).clamp(min=0)
    return (ratio(positive, positive.sum(-1, keepdim=True)) * relevance[..., None]).sum(1)


def slow_sum(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Split relevance between a and b, rescaled over the whole of this one image."""
    r_a, r_b = ratio(a * relevance, a + b), ratio(b * relevance, a + b)
    s_a, s_b = r_a.sum(), r_b.sum()
    whole = s_a.abs() + s_b.abs()
    return (
        r_a * ratio(s_a.abs() * relevance.sum(), whole * s_a),
        r_b * ratio(s_b.abs() * relevance.sum(), whole * s_b),
    )
