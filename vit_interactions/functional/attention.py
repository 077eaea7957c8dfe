"""Scaled dot-product attention: probabilities and their exact gradient.

Source: Vaswani et al., "Attention Is All You Need", Eq. 1, with the conventions of
`torch.nn.functional.scaled_dot_product_attention` for masks, causality and scale.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

BlockIndex = tuple[slice, slice, slice]

# Elements of attention per block: small enough for a CPU's cache, or large enough to keep a GPU busy.
CPU_BLOCK_ELEMENTS = 2**19
GPU_BLOCK_ELEMENTS = 2**26


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return wider types unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context that computes products in the tensor's own type, even under autocast."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def attention_scores(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window: Tensor | None = None,
) -> Tensor:
    """Compute query keyᵀ · scale ∗ window + mask, the input of the softmax, at least in float32.

    Args:
        query: (..., queries, width).
        key: (..., keys, width).
        mask: broadcastable to (..., queries, keys); bool (True is attended to), or added to the scores.
        is_causal: query i attends only to the keys 0..i.
        scale: factor of the products; None: 1 / sqrt(width).
        window: broadcastable to (..., queries, keys), bool; products outside it are set to 0, as in window-free
            attention. None: no window.

    Returns:
        Scores (..., queries, keys), -inf for excluded keys.

    Example:
        >>> attention_scores(torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0]]))
        tensor([[2., 6.]])
    """
    query, key = at_least_float32(query), at_least_float32(key)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    with without_autocast(query):
        scores = (query * scale) @ key.transpose(-2, -1)
    if window is not None:
        scores = scores * window
    if is_causal:
        lower = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~lower, -torch.inf)
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def attention_probabilities(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window: Tensor | None = None,
) -> Tensor:
    """Compute softmax(query keyᵀ · scale ∗ window + mask), at least in float32.

    Args:
        query: (..., queries, width).
        key: (..., keys, width).
        mask: see `attention_scores`, as for the other arguments.
        is_causal: bool.
        scale: float or None.
        window: bool tensor or None.

    Returns:
        Attention (..., queries, keys). Each row sums to 1, or is 0 if the mask excludes all keys.

    Example:
        >>> query = torch.tensor([[0.0], [1.0]])
        >>> attention_probabilities(query, torch.tensor([[0.0], [1.0]]).log1p(), scale=1.0)
        tensor([[0.5000, 0.5000],
                [0.3333, 0.6667]])
    """
    scores = attention_scores(query, key, mask, is_causal=is_causal, scale=scale, window=window)
    attention = scores.softmax(-1)
    if mask is None:
        return attention
    return attention.masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0)


def attention_gradient(output_gradient: Tensor, value: Tensor) -> Tensor:
    """Compute dS/dA = (dS/dz) valueᵀ, exact because z = A value is linear in A.

    Args:
        output_gradient: (..., queries, width), gradient of a score S at the output z of the attention.
        value: (..., keys, width).

    Returns:
        Gradient (..., queries, keys), at least in float32.

    Example:
        >>> attention_gradient(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0], [1.0, 3.0]]))
        tensor([[ 2., -1.]])
    """
    with without_autocast(value):
        return at_least_float32(output_gradient) @ at_least_float32(value).transpose(-2, -1)


def sum_to_one(scores: Tensor) -> Tensor:
    """Scale scores of heads (batch, heads) ≥ 0 to sum to 1; all zeros become 1 / heads each.

    Example:
        >>> sum_to_one(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        tensor([[0.2500, 0.7500],
                [0.5000, 0.5000]])
    """
    total = scores.sum(-1, keepdim=True)
    return torch.where(total > 0, scores / total, torch.full_like(scores, 1 / scores.shape[-1]))


def attention_rows(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window: Tensor | None = None,
    prefix: int = 0,
) -> Iterator[tuple[BlockIndex, Tensor]]:
    """Yield the attention of the patches to all tokens block by block, without ever storing all of it.

    The softmax runs over all tokens. The rows of prefix tokens are omitted.

    Args:
        query: (batch, heads, tokens, width).
        key: (batch, heads, tokens, width).
        mask: broadcastable to (batch, heads, tokens, tokens); see `attention_scores`.
        is_causal: see `attention_scores`.
        scale: see `attention_scores`.
        window: broadcastable to (batch, heads, tokens, tokens); see `attention_scores`.
        prefix: number of tokens before the first patch.

    Yields:
        ((batch, heads, patches) as slices, block): the block and its position in the (batch, heads, patches, tokens)
        attention.

    Example:
        >>> query = key = torch.zeros(1, 2, 3, 4)
        >>> [(index, block.shape) for index, block in attention_rows(query, key, prefix=1)]
        [((slice(0, 1, None), slice(0, 2, None), slice(0, 2, None)), torch.Size([1, 2, 2, 3]))]
    """
    batch, heads, tokens = query.shape[:3]
    keys = key.shape[2]
    if is_causal:
        mask, is_causal = torch.ones(tokens, keys, dtype=torch.bool, device=query.device).tril(), False
    if mask is not None:
        mask = mask.expand(batch, heads, tokens, keys)
    if window is not None:
        window = window.expand(batch, heads, tokens, keys)
    query, key = at_least_float32(query), at_least_float32(key)
    for item, head, row in _block_slices(batch, heads, tokens - prefix, keys, query.is_cuda):
        shifted = slice(row.start + prefix, row.stop + prefix)
        block = attention_probabilities(
            query[item, head, shifted],
            key[item, head],
            None if mask is None else mask[item, head, shifted],
            scale=scale,
            window=None if window is None else window[item, head, shifted],
        )
        yield (item, head, row), block


def _block_slices(batch: int, heads: int, rows: int, keys: int, on_gpu: bool) -> Iterator[BlockIndex]:
    """Divide (batch, heads, rows) into blocks of about as many elements as the budget."""
    budget = max(1, (GPU_BLOCK_ELEMENTS if on_gpu else CPU_BLOCK_ELEMENTS) // keys)
    row_step = min(rows, budget)
    head_step = min(heads, max(1, budget // row_step))
    item_step = min(batch, max(1, budget // (row_step * head_step)))
    for item in range(0, batch, item_step):
        for head in range(0, heads, head_step):
            for row in range(0, rows, row_step):
                yield (
                    slice(item, min(item + item_step, batch)),
                    slice(head, min(head + head_step, heads)),
                    slice(row, min(row + row_step, rows)),
                )
