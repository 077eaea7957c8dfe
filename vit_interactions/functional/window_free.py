"""Window-free attention: each layer computes the window of each patch from its queries and keys.

Source: Ma et al., arXiv 2203.05922, Sec. 5, Eqs. 8 and 9. A masked score is 0, not minus infinity, as in Eq. 9; the
other interpretation is `window_fill="-inf"`. Prefix tokens are neither windowed nor part of the windows.

TorchScript can compile these functions, so they have no keyword-only arguments.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from vit_interactions.functional.attention import at_least_float32, without_autocast
from vit_interactions.utilities.checks import check_choice
from vit_interactions.utilities.choices import WINDOW_FILLS as WINDOW_FILLS


class WindowFree(NamedTuple):
    """Result of window-free attention.

    Attributes:
        output: z (batch, heads, tokens, width).
        logits: logits of w' (batch, patches, patches), at least float32, with gradients.
        mask: W (batch, patches, patches) bool.
    """

    output: Tensor
    logits: Tensor
    mask: Tensor


def window_free_logits(query: Tensor, key: Tensor) -> Tensor:
    """Compute the mean over heads of Q Kᵀ, without 1/√d (Eq. 8): one product of the concatenated heads.

    Args:
        query: (batch, heads, patches, width), without prefix tokens.
        key: (batch, heads, patches, width).

    Returns:
        (batch, patches, patches), at least float32, even under autocast.

    Example:
        >>> query = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)  # two heads, one patch
        >>> window_free_logits(query, query)
        tensor([[[2.5000]]])
    """
    query = at_least_float32(query).transpose(1, 2).flatten(2) / query.shape[1]
    key = at_least_float32(key).transpose(1, 2).flatten(2)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return query @ key.transpose(1, 2)
    with without_autocast(query):
        return query @ key.transpose(1, 2)


def window_free_mask(logits: Tensor) -> Tensor:
    """Mark the pairs whose w' = sigmoid(logit) is strictly above the mean of its row (Eq. 8).

    Args:
        logits: (..., patches, patches).

    Returns:
        (..., patches, patches) bool, without gradient. A row of equal values is not marked at all.

    Example:
        >>> window_free_mask(torch.tensor([[9.0, -9.0], [1.0, 1.0]])).int()
        tensor([[1, 0],
                [0, 0]], dtype=torch.int32)
    """
    weights = logits.detach().sigmoid()
    # The mean of equal values may be rounded to below them; the mean of zeros is not.
    weights = weights - weights[..., :1]
    return weights > weights.mean(-1, keepdim=True)


def token_window(mask: Tensor, num_prefix: int) -> Tensor:
    """Extend windows of patches to all tokens and heads: prefix tokens attend to, and are attended by, all tokens.

    Args:
        mask: W (batch, patches, patches) bool.
        num_prefix: number of tokens before the first patch.

    Returns:
        (batch, 1, tokens, tokens) bool.

    Example:
        >>> token_window(torch.eye(2, dtype=torch.bool)[None], num_prefix=1)[0, 0].int()
        tensor([[1, 1, 1],
                [1, 1, 0],
                [1, 0, 1]], dtype=torch.int32)
    """
    return F.pad(mask, (num_prefix, 0, num_prefix, 0), value=True).unsqueeze(1)


def windowed_probabilities(
    query: Tensor, key: Tensor, window: Tensor, window_fill: str = "zero", scale: float | None = None
) -> Tensor:
    """Compute the attention A' = softmax((Q Kᵀ · scale) ∗ W) (Eq. 9), in the type of the queries.

    Args:
        query: (batch, heads, tokens, width).
        key: (batch, heads, tokens, width).
        window: (batch, 1, tokens, tokens) bool, see `token_window`.
        window_fill: see `window_free_attention`.
        scale: see `window_free_attention`.

    Returns:
        (batch, heads, tokens, tokens); with "-inf", a row without a window is 0.

    Example:
        >>> query = torch.ones(1, 1, 2, 1)
        >>> windowed_probabilities(query, query, torch.tensor([[[[True, False], [False, True]]]]))
        tensor([[[[0.7311, 0.2689],
                  [0.2689, 0.7311]]]])
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if window_fill == "zero":
        return (scores * window).softmax(-1)
    # The softmax of a fully masked row would be NaN.
    kept = window | ~window.any(-1, keepdim=True)
    return scores.masked_fill(~kept, float("-inf")).softmax(-1) * window


def window_free_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_prefix: int,
    window_fill: str = "zero",
    scale: float | None = None,
    dropout: float = 0.0,
) -> WindowFree:
    """Compute the windows of the patches, and softmax((Q Kᵀ · scale) ∗ W) V (Eqs. 8 and 9).

    A `TorchFunctionMode` sees one call, as for torch's own functions.

    Args:
        query: (batch, heads, tokens, width); prefix tokens first.
        key: (batch, heads, tokens, width).
        value: (batch, heads, tokens, width).
        num_prefix: number of tokens before the first patch.
        window_fill: score of pairs of patches outside the windows: "zero" (Eq. 9), or "-inf", which masks them.
        scale: factor of the scores; None: 1 / sqrt(width).
        dropout: dropout probability of the attention.

    Returns:
        The output, the logits of the windows, and the windows. The output of a fully masked token is 0.

    Raises:
        ValueError: inconsistent shapes, no patch, or an unknown `window_fill`.

    Example:
        >>> query = torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1)
        >>> attended = window_free_attention(query, query, torch.tensor([0.0, 1.0]).view(1, 1, 2, 1), num_prefix=0)
        >>> attended.mask.int(), attended.output.flatten()
        (tensor([[[1, 0],
                 [0, 1]]], dtype=torch.int32), tensor([0.2689, 0.7311]))
    """
    if has_torch_function((query, key, value)):
        overridden: WindowFree = handle_torch_function(
            window_free_attention,
            (query, key, value),
            query,
            key,
            value,
            num_prefix,
            window_fill=window_fill,
            scale=scale,
            dropout=dropout,
        )
        return overridden
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _check(query, key, value, num_prefix)
        check_choice("window_fill", window_fill, WINDOW_FILLS)
    logits = window_free_logits(query[:, :, num_prefix:], key[:, :, num_prefix:])
    mask = window_free_mask(logits)
    window = token_window(mask, num_prefix)
    if window_fill == "-inf":
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=window, dropout_p=dropout, scale=scale
        )
    else:
        output = F.dropout(windowed_probabilities(query, key, window, window_fill, scale), dropout) @ value
    return WindowFree(output, logits, mask)


def window_free_loss(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Compute the binary cross-entropy of w' = sigmoid(logits), averaged over pairs, images and layers (Sec. 5).

    Args:
        logits: (batch, patches, patches) per layer.
        targets: binary masks of responsive fields (batch, patches, patches), bool or float in [0, 1].

    Returns:
        Scalar ≥ 0, in nats per pair.

    Raises:
        ValueError: no layer, or inconsistent shapes.

    Example:
        >>> window_free_loss([torch.zeros(1, 2, 2)], torch.eye(2)[None])
        tensor(0.6931)
    """
    if not logits:
        raise ValueError("`logits` must contain one tensor per layer, got none.")
    for layer in logits:
        if layer.shape != targets.shape:
            raise ValueError(
                f"`targets` must have the logits' shape {tuple(layer.shape)}, got {tuple(targets.shape)}."
            )
    targets = targets.to(logits[0].dtype)
    losses = [F.binary_cross_entropy_with_logits(layer, targets) for layer in logits]
    return torch.stack(losses).mean()


def _check(query: Tensor, key: Tensor, value: Tensor, num_prefix: int) -> None:
    if query.ndim != 4 or query.shape != key.shape or key.shape != value.shape:
        raise ValueError(
            "`query`, `key` and `value` must have the same shape (batch, heads, tokens, width), got "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}."
        )
    if not 0 <= num_prefix < query.shape[2]:
        raise ValueError(f"`num_prefix` must lie in [0, {query.shape[2] - 1}], got {num_prefix}.")
