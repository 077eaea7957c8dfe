"""Quantize attention to a few bits per value, on a square-root scale with robust limits per row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.record import AttentionCall
from vit_interactions.figures.display import robust_limits

FINE, COARSE = 256, 16  # levels per value: one byte, half a byte
FINE_VALUES = 2**21  # most values that are stored with fine levels
EACH_HEAD = 2**23  # most values for which every head is kept: 12 x 12 heads of 14 x 14 patches
LAYER_MEANS = 2**25  # most values for which the mean over each layer's heads is kept


@dataclass(frozen=True, eq=False)
class QuantizedAttention:
    """Quantized attention among the patches of one image.

    Attributes:
        form: whether every head is kept, the mean over each layer's heads, or nothing, to limit the page size.
        levels: levels per value.
        all_heads: heads per layer.
        values: (layers, heads or 1, patches, patches) in [0, levels - 1]: (levels - 1) · sqrt(attention / end), at most
            levels - 1.
        ends: (layers, heads or 1, patches), the end of each row's color scale, from `row_ends`.
        peaks: (layers, heads or 1, patches), the largest attention of each row times 65,535.
        inside: (layers, heads or 1, patches), the sum of each row times 65,535, i.e. without prefix tokens.
    """

    form: Literal["heads", "means", "none"]
    levels: int
    all_heads: int
    values: NDArray[np.uint8]
    ends: NDArray[np.uint8]
    peaks: NDArray[np.uint16]
    inside: NDArray[np.uint16]

    def packed(self) -> NDArray[np.uint8]:
        """Return the values, with 16 levels packed two per byte, the first in the low half."""
        flat = self.values.ravel()
        if self.levels > COARSE:
            return flat
        even = np.append(flat, np.zeros(flat.size % 2, np.uint8))
        return (even[0::2] | even[1::2] << 4).astype(np.uint8)


def quantize_attention(calls: Sequence[AttentionCall], layout: TokenLayout) -> QuantizedAttention:
    """Quantize the attention of all layers of one image, in a form that fits its size.

    Args:
        calls: attention calls of the layers, for a batch of one image.
        layout: token layout of the model.
    """
    heads, pairs = calls[0].query.shape[1], layout.patches**2
    form: Literal["heads", "means", "none"] = "none"
    if len(calls) * heads * pairs <= EACH_HEAD:
        form = "heads"
    elif len(calls) * pairs <= LAYER_MEANS:
        form = "means"
    kept = [] if form == "none" else list(calls)
    maps = 0 if form == "none" else heads if form == "heads" else 1
    levels = FINE if len(kept) * maps * pairs <= FINE_VALUES else COARSE
    shape = len(kept), maps, layout.patches
    values = np.empty((*shape, layout.patches), np.uint8)
    ends = np.empty(shape, np.uint8)
    peaks, inside = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
    for layer, call in enumerate(kept):
        attention = call.attention()[0, :, layout.prefix :, layout.prefix :]
        if form == "means":
            attention = attention.mean(0, keepdim=True)
        peaks[layer], inside[layer] = _to_16_bits(attention.amax(-1)), _to_16_bits(attention.sum(-1))
        end = row_ends(attention)
        ends[layer] = end.cpu().numpy()
        values[layer] = quantize_rows(attention, end, levels).cpu().numpy()
    return QuantizedAttention(form, levels, heads, values, ends, peaks, inside)


def row_ends(attention: Tensor) -> Tensor:
    """Compute where each row's color scale ends: 255 · sqrt(end / row maximum), rounded up.

    Args:
        attention: (..., patches) ≥ 0.

    Returns:
        (...) uint8: 255 at the maximum, less if `robust_limits` of the square roots are lower.
    """
    roots = attention.double().sqrt().cpu().numpy()
    highest = roots.max(-1)
    end = robust_limits(np.where(roots > 0, roots, np.nan))[1]
    share = np.divide(end, highest, out=np.ones_like(highest), where=highest > 0)
    return torch.from_numpy(np.ceil(255 * share).astype(np.uint8)).to(attention.device)


def quantize_rows(attention: Tensor, ends: Tensor, levels: int) -> Tensor:
    """Compute (levels - 1) · sqrt(attention / end), rounded and at most levels - 1; rows of zeros stay zero.

    Args:
        attention: (..., patches) ≥ 0.
        ends: (...), from `row_ends`.
        levels: at most 256.

    Returns:
        uint8, of the same shape.

    Example:
        >>> rows = torch.tensor([[0.0, 0.04, 0.16], [0.0, 0.0, 0.0]])
        >>> quantize_rows(rows, row_ends(rows), 256)
        tensor([[  0, 128, 255],
                [  0,   0,   0]], dtype=torch.uint8)
    """
    peak = attention.amax(-1, keepdim=True)
    shares = torch.where(peak > 0, attention / peak, 0.0).sqrt() / (ends.unsqueeze(-1) / 255)
    return (shares.clamp(max=1) * (levels - 1)).round().to(torch.uint8)


def _to_16_bits(shares: Tensor) -> NDArray[np.uint16]:
    rounded: NDArray[np.uint16] = (shares.clamp(0, 1) * 65535).round().cpu().numpy().astype(np.uint16)
    return rounded
