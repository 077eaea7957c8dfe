"""Scaled dot-product attention as the paper of every ViT writes it: probabilities, and their exact gradient.

Source: Vaswani et al., "Attention Is All You Need", Eq. 1, with the conventions of
`torch.nn.functional.scaled_dot_product_attention` for masks, causality and scale.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

BlockIndex = tuple[slice, slice, slice]

# Elements of attention worked on at once: a block that stays in a CPU's cache, or that fills a GPU.
CPU_BLOCK_ELEMENTS = 2**19
GPU_BLOCK_ELEMENTS = 2**26


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half precision as float32, anything wider unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context that computes products in the tensors' own type, also inside the user's autocast."""
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
    """Compute query keyᵀ · scale ∗ window + mask, what the softmax of attention takes, at least in float32.

    Args:
        query: (..., queries, width).
        key: (..., keys, width).
        mask: broadcastable to (..., queries, keys); bool (True takes part) or added to the scores.
        is_causal: query i sees the keys 0..i only.
        scale: factor of the products; None means 1 / sqrt(width).
        window: broadcastable to (..., queries, keys), bool; a product outside it counts 0, as in window-free
            attention. None means that all are inside.

    Returns:
        Scores (..., queries, keys), -inf where a key takes no part.

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
        mask: as in `attention_scores`.
        is_causal: as in `attention_scores`.
        scale: as in `attention_scores`.
        window: as in `attention_scores`.

    Returns:
        Attention (..., queries, keys). Every row sums to 1, or is 0 where the mask excludes every key.

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
        output_gradient: (..., queries, width), the gradient of a score S at the attention's output z.
        value: (..., keys, width).

    Returns:
        Gradient (..., queries, keys), at least in float32.

    Example:
        >>> attention_gradient(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0], [1.0, 3.0]]))
        tensor([[ 2., -1.]])
    """
    with without_autocast(value):
        return at_least_float32(output_gradient) @ at_least_float32(value).transpose(-2, -1)


def attention_blocks(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window: Tensor | None = None,
    prefix: int = 0,
) -> Iterator[tuple[BlockIndex, Tensor]]:
    """Yield the attention among patches block by block, so that nobody has to hold all of it.

    The softmax runs over all keys; the prefix tokens are left out of the result, rows and columns, and the
    rows are not renormalised.

    Args:
        query: (batch, heads, tokens, width).
        key: (batch, heads, tokens, width).
        mask: broadcastable to (batch, heads, tokens, tokens).
        is_causal: as in `attention_probabilities`.
        scale: as in `attention_probabilities`.
        window: broadcastable to (batch, heads, tokens, tokens); as in `attention_scores`.
        prefix: tokens before the first patch.

    Yields:
        ((batch, heads, patches) as slices, block): the block belongs at that place of the
        (batch, heads, patches, patches) attention.

    Example:
        >>> query = key = torch.zeros(1, 2, 3, 4)
        >>> [(index, block.shape) for index, block in attention_blocks(query, key, prefix=1)]
        [((slice(0, 1, None), slice(0, 2, None), slice(0, 2, None)), torch.Size([1, 2, 2, 2]))]
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
        yield (item, head, row), block[..., prefix:]


def _block_slices(batch: int, heads: int, rows: int, keys: int, on_gpu: bool) -> Iterator[BlockIndex]:
    """Cut (batch, heads, rows) so that a block is of about the elements of the budget."""
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
