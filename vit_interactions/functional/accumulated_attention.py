"""Dynamic Accumulated Attention Map (DAAM): the class token's evidence, block by block.

Source: Liao, Gao and Zhang, "Dynamic Accumulated Attention Map for Interpreting Evolution of Decision-Making in Vision
Transformer", Pattern Recognition 165 (2025), arXiv 2503.14640. Not the "DAAM" of text-to-image diffusion.
"""

from typing import Literal

import torch
from torch import Tensor

from vit_interactions.functional.attention import attention_gradient
from vit_interactions.utilities.checks import check_choice

Display = Literal["sigmoid", "global"]


def block_evidence(
    attention_rows: Tensor, output_gradient_rows: Tensor, value: Tensor, *, rectify: bool = True
) -> Tensor:
    """Compute u[j] = Σ_rows Σ_heads A[row, j] · ⟨c[row], V[j]⟩, each token's contribution to a score through one block.

    A[row, j] V[j] is the contribution of token j to the output of the row, and c is the gradient of the score there,
    rectified for supervised models. Without rectification, u sums to ⟨c, z⟩ over tokens.

    Args:
        attention_rows: (batch, heads, rows, tokens), attention of the readout tokens.
        output_gradient_rows: (batch, heads, rows, width), gradient of the score at these rows of z.
        value: (batch, heads, tokens, width).
        rectify: use max(c, 0), as in the supervised mode.

    Returns:
        (batch, tokens), signed.

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]]]])
        >>> value = torch.tensor([[[[1.0], [2.0], [-1.0]], [[0.0], [1.0], [3.0]]]])
        >>> gradient = torch.tensor([[[[2.0]], [[-1.0]]]])
        >>> block_evidence(attention, gradient, value), block_evidence(attention, gradient, value, rectify=False)
        (tensor([[ 1.0000,  1.2000, -0.4000]]), tensor([[ 1.0000,  0.6000, -1.3000]]))
    """
    coefficients = output_gradient_rows.clamp(min=0) if rectify else output_gradient_rows
    return (attention_rows * attention_gradient(coefficients, value)).sum((1, 2))


def accumulate(block_maps: Tensor, *, norm_blocks: bool = False) -> Tensor:
    """Accumulate the positive part of the block maps: D_b = Σ_{i ≤ b} max(M_i, 0).

    Args:
        block_maps: (batch, layers, patches).
        norm_blocks: first scale each block's map to [0, 1]; a constant map becomes 0.

    Returns:
        (batch, layers, patches), non-decreasing along the layers. The last one is the attribution.

    Example:
        >>> accumulate(torch.tensor([[[1.0, -1.0], [2.0, 3.0]]]))
        tensor([[[1., 0.],
                 [3., 3.]]])
    """
    positive = block_maps.clamp(min=0)
    return (min_max(positive) if norm_blocks else positive).cumsum(1)


def min_max(values: Tensor) -> Tensor:
    """Scale the last axis to [0, 1]; constant values become 0.

    Example:
        >>> min_max(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]))
        tensor([[0.0000, 1.0000, 0.5000],
                [0.0000, 0.0000, 0.0000]])
    """
    lowest = values.amin(-1, keepdim=True)
    span = values.amax(-1, keepdim=True) - lowest
    return torch.where(span > 0, (values - lowest) / span, torch.zeros_like(values))


def display_frames(accumulated: Tensor, mode: Display = "sigmoid") -> Tensor:
    """Map accumulated frames to [0, 1] for display.

    "sigmoid", as in the published code: t = sigmoid(5 D_b / max D_L) − 1/2, with each frame scaled to the full range
    [0, 1]. "global": relative to the minimum of the last frame, with a brightness proportional to the frame's range, so
    that early frames are dimmer.

    Args:
        accumulated: (batch, layers, patches), from `accumulate`.
        mode: "sigmoid" or "global".

    Returns:
        (batch, layers, patches) in [0, 1]; a constant frame becomes 0.

    Raises:
        ValueError: an unknown `mode`.

    Example:
        >>> display_frames(torch.tensor([[[0.0, 0.5, 1.0]]])).mul(255).int()
        tensor([[[  0, 219, 255]]], dtype=torch.int32)
    """
    check_choice("mode", mode, ("sigmoid", "global"))
    last = accumulated[:, -1:]
    if mode == "sigmoid":
        highest = last.amax(-1, keepdim=True)
        relative = torch.where(highest > 0, accumulated / highest, torch.zeros_like(accumulated))
        return min_max((5 * relative).sigmoid() - 0.5)
    lowest, highest = last.amin(-1, keepdim=True), last.amax(-1, keepdim=True)
    low, high = accumulated.amin(-1, keepdim=True), accumulated.amax(-1, keepdim=True)
    shape = ((accumulated - lowest) / (high - lowest)).clamp(min=0)
    brightness = (high - low) / (highest - lowest)
    return torch.where((high > lowest) & (highest > lowest), shape * brightness, torch.zeros_like(accumulated))
