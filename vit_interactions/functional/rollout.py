"""Attention rollout: attention propagated back through all layers to the input tokens.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, Sec. 4.1. Rows are normalized by
their sums; discarding small entries ("discard") is not part of the paper.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from vit_interactions.functional.chain import chain
from vit_interactions.utilities.checks import check_choice, check_fraction, check_weight

Fusion = Literal["mean", "max", "min"]
FUSIONS: tuple[Fusion, ...] = ("mean", "max", "min")


def fuse_heads(attention: Tensor, fusion: Fusion = "mean") -> Tensor:
    """Fuse the heads of attention (batch, heads, queries, keys) into (batch, queries, keys).

    Args:
        attention: (batch, heads, queries, keys).
        fusion: "mean" (the paper), "max" or "min" over heads.

    Raises:
        ValueError: an unknown `fusion`.

    Example:
        >>> import torch
        >>> fuse_heads(torch.tensor([[[[0.2, 0.8]], [[0.6, 0.4]]]]), "max")
        tensor([[[0.6000, 0.8000]]])
    """
    check_fusion(fusion)
    if fusion == "mean":
        return attention.mean(1)
    return attention.amax(1) if fusion == "max" else attention.amin(1)


def check_fusion(fusion: str) -> None:
    """Raise ValueError unless `fusion` is one of `FUSIONS`."""
    check_choice("fusion", fusion, FUSIONS)


def discard_smallest(attention: Tensor, ratio: float, *, keep_first: bool = True) -> Tensor:
    """Set the floor(ratio · tokens²) smallest entries of each sample to 0.

    Args:
        attention: (batch, tokens, tokens), heads fused.
        ratio: fraction of the entries, in [0, 1].
        keep_first: keep entry (0, 0), the class token's attention to itself.

    Returns:
        (batch, tokens, tokens). Ties are broken by the lowest flat index.

    Raises:
        ValueError: `ratio` outside [0, 1].

    Example:
        >>> import torch
        >>> discard_smallest(torch.tensor([[[0.1, 0.9], [0.3, 0.7]]]), 0.5)
        tensor([[[0.1000, 0.9000],
                 [0.0000, 0.7000]]])
    """
    check_fraction("discard", ratio)
    flat = attention.flatten(1)
    smallest = flat.argsort(dim=1, stable=True)[:, : int(ratio * flat.shape[1])]
    thinned = flat.scatter(1, smallest, 0.0)
    if keep_first:
        thinned[:, 0] = flat[:, 0]
    return thinned.view_as(attention)


def without_columns(attention: Tensor, exclude: Tensor) -> Tensor:
    """Set the columns of some tokens to 0, and scale each row to the sum it had before.

    Each token's attention to the excluded tokens is shared among the others, in proportion to what they have. A row
    with nothing else becomes 0.

    Args:
        attention: (batch, tokens, tokens), heads fused, entries ≥ 0.
        exclude: (batch, tokens) bool.

    Returns:
        (batch, tokens, tokens).

    Example:
        >>> import torch
        >>> attention = torch.tensor([[[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]]])
        >>> without_columns(attention, torch.tensor([[True, False, False]]))
        tensor([[[0.0000, 0.5000, 0.5000],
                 [0.0000, 0.2500, 0.7500],
                 [0.0000, 0.0000, 0.0000]]])
    """
    kept = attention.masked_fill(exclude.unsqueeze(1), 0.0)
    left = kept.sum(-1, keepdim=True)
    return kept * (attention.sum(-1, keepdim=True) / left.masked_fill(left == 0, 1.0))


def rollout(attentions: Sequence[Tensor], readout: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Propagate a readout back through the layers: readout · M_L ··· M_1, M_l = rownorm(E_l + α I).

    Computed as a chain of vectors from the top, with layers · tokens² instead of layers · tokens³ operations.

    Args:
        attentions: E_l (batch, tokens, tokens), heads fused, first layer first.
        readout: (batch, tokens) or (tokens,), weight of each output token.
        alpha: weight of the residual connection, ≥ 0. 1 is the paper's 0.5 A + 0.5 I.

    Returns:
        (batch, tokens), weight of each input token; the sum is that of the readout.

    Raises:
        ValueError: no layer, or `alpha` < 0.

    Example:
        >>> import torch
        >>> attention = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]])
        >>> rollout([attention], torch.tensor([1.0, 0.0]))  # (0.5 + 1, 0.5) / 2
        tensor([[0.7500, 0.2500]])
    """
    if not len(attentions):
        raise ValueError("`attentions` must contain at least one layer, got none.")
    check_alpha(alpha)
    relevance = readout.expand(attentions[0].shape[0], -1)
    return chain(relevance, reversed(attentions), alpha, normalize=True)


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless the weight of the residual connection is finite and ≥ 0."""
    check_weight("alpha", alpha)
