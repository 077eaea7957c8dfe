"""Beyond Intuition: attention fused per head or corrected per token, then propagated through the layers.

Source: Chen et al., "Beyond Intuition: Rethinking Token Attributions inside Transformers", TMLR 2023.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from vit_interactions.functional.attention import at_least_float32, sum_to_one, without_autocast


def head_importance(attention: Tensor, gradient: Tensor) -> Tensor:
    """Compute head weights proportional to mean_ij |(A_hᵀ G_h)_ij|, summing to 1.

    Args:
        attention: A (batch, heads, tokens, tokens).
        gradient: G, gradient of the score at A; same shape.

    Returns:
        (batch, heads) ≥ 0; 1 / heads each if the gradient is zero.

    Example:
        >>> attention = torch.eye(2).expand(1, 2, 2, 2)
        >>> head_importance(attention, torch.tensor([[[[1.0, -1.0], [0.0, 0.0]], [[3.0, 3.0], [0.0, 0.0]]]]))
        tensor([[0.2500, 0.7500]])
    """
    with without_autocast(attention):
        scores = (attention.transpose(-2, -1) @ gradient).abs().mean((-2, -1))
    return sum_to_one(scores)


def fuse_by_head(attention: Tensor, gradient: Tensor) -> Tensor:
    """Fuse heads by their importance: Â = Σ_h b_h A_h, (batch, tokens, tokens).

    Args:
        attention: A (batch, heads, tokens, tokens).
        gradient: gradient of the score at A; same shape.

    Example:
        >>> attention = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]).expand(1, 2, 2, 2)
        >>> fuse_by_head(attention, torch.tensor([1.0, 3.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2))[0, 0]
        tensor([0.2500, 0.7500])
    """
    return (head_importance(attention, gradient)[..., None, None] * attention).sum(1)


def fuse_by_token(attention: Tensor, value: Tensor, projection: Tensor, inputs: Tensor) -> Tensor:
    """Average over heads, and scale each key by the length of its projected value relative to its input.

    Â = mean_h(A_h) diag(‖V W_oᵀ‖ / ‖X‖), with norms of rows and the heads of V concatenated; no bias, no layer scale.

    Args:
        attention: A (batch, heads, tokens, tokens).
        value: V (batch, heads, tokens, width).
        projection: W_o (channels, heads · width), weight of the layer's output projection.
        inputs: X (batch, tokens, channels), input of the block before normalization.

    Returns:
        (batch, tokens, tokens) ≥ 0. The column of a token whose input is zero is 0.

    Example:
        >>> value, inputs = torch.tensor([[[[3.0], [1.0]]]]), torch.tensor([[[1.0], [2.0]]])
        >>> fuse_by_token(torch.full((1, 1, 2, 2), 0.5), value, torch.tensor([[2.0]]), inputs)[0, 0]
        tensor([3.0000, 0.5000])
    """
    with without_autocast(attention):
        projected = at_least_float32(value).transpose(1, 2).flatten(2) @ at_least_float32(projection).T
    length = torch.linalg.vector_norm(at_least_float32(inputs), dim=-1)
    ratio = torch.linalg.vector_norm(projected, dim=-1) / length.masked_fill(length == 0, torch.inf)
    fused: Tensor = attention.mean(1) * ratio.unsqueeze(1)
    return fused


def relevance_rows(fused: Iterable[Tensor], rows: Tensor) -> Tensor:
    """Compute rows of R = (I + Â_L) ··· (I + Â_start), without the rest of R.

    Args:
        fused: Â (batch, tokens, tokens), last layer first; at least one.
        rows: (count,) indices of output tokens.

    Returns:
        (batch, count, tokens).

    Raises:
        ValueError: no layer.

    Example:
        >>> fused = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]])
        >>> relevance_rows([fused, fused], torch.tensor([0]))  # (1.5, 0.5), then times I + Â once more
        tensor([[[2.3500, 1.6500]]])
    """
    downwards = iter(fused)
    last = next(downwards, None)
    if last is None:
        raise ValueError("`fused` must contain at least one layer, got none.")
    identity = torch.eye(last.shape[-1], dtype=last.dtype, device=last.device)
    relevance = identity[rows] + last[:, rows]
    for matrix in downwards:
        with without_autocast(matrix):
            relevance = relevance + relevance @ matrix
    return relevance
