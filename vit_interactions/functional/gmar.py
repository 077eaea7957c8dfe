"""GMAR: attention rollout with heads weighted by their gradients.

Source: Jo, Jang and Park, "GMAR: Gradient-Driven Multi-Head Attention Rollout", ICIP 2025, arXiv 2504.19414. Paper and
code disagree on the residual, the order and the normalization; the options select them.
"""

from typing import Literal

import torch
from torch import Tensor

from vit_interactions.functional.attention import sum_to_one, without_autocast

Norm = Literal["l1", "l2"]


def head_weights(gradient: Tensor, norm: Norm = "l2") -> Tensor:
    """Compute head weights proportional to the norm of each head's attention gradient, summing to 1.

    Args:
        gradient: (batch, heads, queries, keys).
        norm: "l1" or "l2".

    Returns:
        (batch, heads) ≥ 0; 1 / heads each if the gradient is zero.

    Example:
        >>> gradient = torch.tensor([[[[1.0, -1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]]])
        >>> head_weights(gradient, "l1"), head_weights(gradient, "l2")
        (tensor([[0.6667, 0.3333]]), tensor([[0.5000, 0.5000]]))
    """
    order = {"l1": 1, "l2": 2}[norm]
    scores = torch.linalg.vector_norm(gradient, ord=order, dim=(-2, -1))
    return sum_to_one(scores)


def weighted_heads(attention: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted sum over heads Σ_h w_h A_h.

    Args:
        attention: (batch, heads, queries, keys).
        weights: (batch, heads).

    Returns:
        (batch, queries, keys); its rows sum to 1 if the weights do.

    Example:
        >>> weighted_heads(torch.tensor([[[[0.2, 0.8]], [[0.6, 0.4]]]]), torch.tensor([[0.75, 0.25]]))
        tensor([[[0.3000, 0.7000]]])
    """
    with without_autocast(attention):
        return torch.einsum("bh,bhij->bij", weights, attention)
