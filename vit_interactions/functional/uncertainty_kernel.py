"""U from one fused Triton kernel: queries and keys in, U out, no attention and no running sums in memory.

The streamed U of `functional.uncertainty` keeps two running sums (batch, heads, patches, patches) and reads and writes
both once per layer. Here, queries and keys of all layers are kept instead, which are smaller by far, and each tile of
U is computed from them in one go: the attention of one tile of pairs exists only in registers.

Nothing uses the kernel by default, because no GPU has shown it to be faster yet; see `tests/benchmarks/gpu.py`.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vit_interactions.functional.attention import attention_rows
from vit_interactions.functional.uncertainty import RunningUncertainty

try:
    import triton
    import triton.language as tl
    from triton import jit as _kernel
    from triton.language import constexpr
except ImportError:  # builds of torch for the CPU come without it
    triton, _kernel = None, lambda function: function
    constexpr = int

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run on the CPU, for tests

# A tile of U, per program. Five float32 tiles of this size live in registers.
ROWS = COLS = 64
WARPS = 8
LARGEST_WIDTH = 128  # of a head; what a tile needs of the shared memory grows with it
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class _Layer(NamedTuple):
    """The queries and keys of one layer, the scale of its scores, and its name."""

    query: Tensor
    key: Tensor
    scale: float
    name: str | None


class DeferredUncertainty:
    """U of layers whose queries and keys are kept until the end; an alternative to `RunningUncertainty`.

    As soon as a layer does not suit the kernel (see `why_not`), all layers are streamed as in `RunningUncertainty`.

    Example:
        >>> deferred, query = DeferredUncertainty(), torch.eye(3).view(1, 1, 3, 3)
        >>> for level in (1.0, 1.0):
        ...     deferred.add(query, level * query, prefix=1)
        >>> deferred.result()  # no variance over layers
        tensor([[[0., 0.],
                 [0., 0.]]])
    """

    def __init__(self) -> None:
        """Start without layers."""
        self._prefix = 0
        self._kept: list[_Layer] = []
        self._running: RunningUncertainty | None = None

    def add(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None = None,
        *,
        prefix: int = 0,
        name: str | None = None,
        scale: float | None = None,
        **restrictions: Any,
    ) -> None:
        """Add a layer.

        Args:
            query: (batch, heads, tokens, width); copied.
            key: (batch, heads, tokens, width); copied.
            mask: see `functional.attention.attention_rows`.
            prefix: number of tokens before the first patch, the same in all layers.
            name: name of the layer in errors.
            scale: see `attention_rows`.
            **restrictions: the other options of `attention_rows`, `is_causal` and `window`.

        Raises:
            ValueError: the shape differs from that of the previous layers.
        """
        self._prefix = prefix
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        alike = not self._kept or (query.shape, query.dtype) == (
            self._kept[0].query.shape,
            self._kept[0].query.dtype,
        )
        if self._running is None and alike and not why_not(query, key, mask, **restrictions):
            # Copies: views would keep the values alive too, and models may write over their queries.
            self._kept.append(_Layer(_copy(query), _copy(key), scale, name))
            return
        self._stream_kept()
        self._stream(_Layer(query, key, scale, name), mask=mask, **restrictions)

    def result(self) -> Tensor:
        """Return U (batch, patches, patches), all values ≥ 0.

        Raises:
            ValueError: no layer has been added.
        """
        if self._running is not None or not self._kept:
            return (self._running or RunningUncertainty()).result()
        queries, keys, scales, _ = zip(*self._kept, strict=True)
        self._kept.clear()
        return fused_uncertainty(queries, keys, scales, self._prefix)

    def _stream_kept(self) -> None:
        if self._running is None:
            self._running = RunningUncertainty()
            for layer in self._kept:
                self._stream(layer)
            self._kept.clear()

    def _stream(self, layer: _Layer, **options: Any) -> None:
        assert self._running is not None
        rows = attention_rows(layer.query, layer.key, scale=layer.scale, prefix=self._prefix, **options)
        blocks = ((index, block[..., self._prefix :]) for index, block in rows)
        batch, heads, tokens, _ = layer.query.shape
        patches = tokens - self._prefix
        self._running.update(blocks, (batch, heads, patches, patches), layer.name)


def why_not(query: Tensor, key: Tensor, mask: Tensor | None = None, **restrictions: Any) -> str | None:
    """Return why the kernel does not support a layer; None if it does.

    For the arguments see `DeferredUncertainty.add`.

    Example:
        >>> why_not(torch.zeros(1, 1, 3, 3, dtype=torch.float64), torch.zeros(1, 1, 3, 3, dtype=torch.float64))
        'queries and keys are torch.float64'
    """
    if any(each is not None and each is not False for each in (mask, *restrictions.values())):
        return "the attention has a mask, a bias or windows"
    if query.dtype not in DTYPES or key.dtype != query.dtype:
        return f"queries and keys are {query.dtype}"
    if INTERPRETED and query.dtype == torch.bfloat16:
        return "Triton's interpreter does not multiply bfloat16"
    if query.shape != key.shape or query.shape[-1] > LARGEST_WIDTH:
        return f"queries have shape {tuple(query.shape)} and keys {tuple(key.shape)}"
    if triton is None:
        return "triton is not installed"
    if not (query.is_cuda or INTERPRETED):
        return f"queries are on {query.device}"
    return None


@torch.no_grad()
def fused_uncertainty(
    queries: Sequence[Tensor], keys: Sequence[Tensor], scales: Sequence[float], prefix: int = 0
) -> Tensor:
    """Compute U of the attention softmax(query keyᵀ · scale) of all layers with the kernel.

    Source: Ma et al., arXiv 2203.05922, Eqs. 2 and 3; the softmax in two passes, the first of which computes the
    logarithm of each row's sum online, as in Dao et al., "FlashAttention", arXiv 2205.14135.

    Args:
        queries: (batch, heads, tokens, width) per layer, all alike and supported; see `why_not`.
        keys: (batch, heads, tokens, width) per layer.
        scales: factor of the scores per layer.
        prefix: number of tokens before the first patch; they take part in the softmax only.

    Returns:
        U (batch, patches, patches) float32. Half-precision queries and keys are multiplied exactly and summed in
        float32; the softmax and all that follows is float32.
    """
    query, key = torch.stack(tuple(queries)), torch.stack(tuple(keys))
    layers, batch, heads, tokens, width = query.shape
    patches = tokens - prefix
    factors = torch.tensor(scales, dtype=torch.float32, device=query.device)
    sums = query.new_empty(layers, batch, heads, patches, dtype=torch.float32)
    result = query.new_empty(batch, patches, patches, dtype=torch.float32)
    row_blocks, col_blocks = triton.cdiv(patches, ROWS), triton.cdiv(patches, COLS)
    sizes = {"WIDTH": max(16, triton.next_power_of_2(width)), "ROWS": ROWS, "COLS": COLS, "num_warps": WARPS}
    with torch.cuda.device(query.get_device()):  # Triton launches on the current device
        _log_sums[(row_blocks * layers * batch * heads,)](
            query, key, factors, sums, batch * heads, tokens, prefix, width, **sizes
        )
        _tile_of_uncertainty[(col_blocks, row_blocks, batch)](
            query, key, factors, sums, result, layers, batch, heads, tokens, prefix, width, **sizes
        )
    return result


@_kernel
def _log_sums(
    query,
    key,
    factors,
    sums,
    per_layer,
    tokens,
    prefix,
    width,
    WIDTH: constexpr,
    ROWS: constexpr,
    COLS: constexpr,
):
    """Compute the logarithm of the sum of exp(scores) of a block of rows of one head: log Σⱼ exp(sᵢⱼ)."""
    patches = tokens - prefix
    blocks = tl.cdiv(patches, ROWS)
    matrix = tl.program_id(0) // blocks
    rows = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    wide = tl.arange(0, WIDTH)
    start = matrix.to(tl.int64) * tokens * width
    factor = tl.load(factors + matrix // per_layer)
    q = tl.load(
        query + start + (prefix + rows)[:, None] * width + wide[None, :],
        mask=(rows < patches)[:, None] & (wide < width)[None, :],
        other=0.0,
    )
    highest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(0, tokens, COLS):
        cols = first + tl.arange(0, COLS)
        k = tl.load(
            key + start + cols[None, :] * width + wide[:, None],
            mask=(cols < tokens)[None, :] & (wide < width)[:, None],
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision="ieee") * factor
        scores = tl.where((cols < tokens)[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(scores - higher[:, None]), 1)
        highest = higher
    tl.store(sums + matrix.to(tl.int64) * patches + rows, highest + tl.log(total), mask=rows < patches)


@_kernel
def _tile_of_uncertainty(
    query,
    key,
    factors,
    sums,
    result,
    layers,
    batch,
    heads,
    tokens,
    prefix,
    width,
    WIDTH: constexpr,
    ROWS: constexpr,
    COLS: constexpr,
):
    """Compute a tile of U of one image: the variance over heads of the variance over layers."""
    item = tl.program_id(2)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    wide = tl.arange(0, WIDTH)
    patches = tokens - prefix
    row_mask, col_mask, wide_mask = rows < patches, cols < patches, wide < width
    q_places = (prefix + rows)[:, None] * width + wide[None, :]
    k_places = (prefix + cols)[None, :] * width + wide[:, None]
    head_mean = tl.zeros((ROWS, COLS), tl.float32)
    head_squares = tl.zeros((ROWS, COLS), tl.float32)
    for head in range(heads):
        # Welford's recurrence over layers, and over the heads around it.
        mean = tl.zeros((ROWS, COLS), tl.float32)
        squares = tl.zeros((ROWS, COLS), tl.float32)
        for layer in range(layers):
            matrix = ((layer * batch + item) * heads + head).to(tl.int64)
            start = matrix * tokens * width
            q = tl.load(query + start + q_places, mask=row_mask[:, None] & wide_mask[None, :], other=0.0)
            k = tl.load(key + start + k_places, mask=col_mask[None, :] & wide_mask[:, None], other=0.0)
            log_sum = tl.load(sums + matrix * patches + rows, mask=row_mask, other=0.0)
            scores = tl.dot(q, k, input_precision="ieee") * tl.load(factors + layer)
            deviation = tl.exp(scores - log_sum[:, None]) - mean
            mean += deviation / (layer + 1)
            squares += deviation * deviation * (layer / (layer + 1))
        deviation = squares / layers - head_mean
        head_mean += deviation / (head + 1)
        head_squares += deviation * deviation * (head / (head + 1))
    tl.store(
        result + item.to(tl.int64) * patches * patches + rows[:, None].to(tl.int64) * patches + cols[None, :],
        head_squares / heads,
        mask=row_mask[:, None] & col_mask[None, :],
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
