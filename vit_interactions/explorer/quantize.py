"""Quantize attention to a few bits per value, normalized per row, on a square-root scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.record import AttentionCall

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
        values: (layers, heads or 1, patches, patches) in [0, levels - 1]: (levels - 1) · sqrt(attention / peak).
        peaks: (layers, heads or 1, patches), the largest attention of each row times 65,535.
        inside: (layers, heads or 1, patches), the sum of each row times 65,535, i.e. without prefix tokens.
    """

    form: Literal["heads", "means", "none"]
    levels: int
    all_heads: int
    values: NDArray[np.uint8]
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
    peaks, inside = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
    for layer, call in enumerate(kept):
        attention = call.attention()[0, :, layout.prefix :, layout.prefix :]
        if form == "means":
            attention = attention.mean(0, keepdim=True)
        peaks[layer], inside[layer] = _to_16_bits(attention.amax(-1)), _to_16_bits(attention.sum(-1))
        values[layer] = quantize_rows(attention, levels).cpu().numpy()
    return QuantizedAttention(form, levels, heads, values, peaks, inside)


def quantize_rows(attention: Tensor, levels: int) -> Tensor:
    """Compute (levels - 1) · sqrt(attention / row maximum), rounded; rows of zeros stay zero.

    Args:
        attention: (..., patches) ≥ 0.
        levels: at most 256.

    Returns:
        uint8, of the same shape.

    Example:
        >>> quantize_rows(torch.tensor([[0.0, 0.04, 0.16], [0.0, 0.0, 0.0]]), 256)
        tensor([[  0, 128, 255],
                [  0,   0,   0]], dtype=torch.uint8)
    """
    peak = attention.amax(-1, keepdim=True)
    shares = torch.where(peak > 0, attention / peak, 0.0)
    return (shares.sqrt() * (levels - 1)).round().to(torch.uint8)


def _to_16_bits(shares: Tensor) -> NDArray[np.uint16]:
    rounded: NDArray[np.uint16] = (shares.clamp(0, 1) * 65535).round().cpu().numpy().astype(np.uint16)
    return rounded
