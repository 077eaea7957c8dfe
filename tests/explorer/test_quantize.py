"""Attention in few levels: its error is at most half a level."""

import pytest
import torch

from vit_interactions.explorer.quantize import quantize_rows


@pytest.mark.parametrize("levels", [16, 256])
def test_quantization_error_is_at_most_half_a_level(levels: int) -> None:
    attention = (torch.randn(2, 5, 5, dtype=torch.float64) * 3).softmax(-1)
    attention[0, 1] = 0.0
    peak = attention.amax(-1, keepdim=True)
    quantized = quantize_rows(attention, peak[..., 0], levels)
    roots = quantized.double() / (levels - 1) * peak.sqrt()
    assert ((roots - attention.sqrt()).abs() <= 0.5001 / (levels - 1) * peak.sqrt()).all()
    assert (quantized[0, 1] == 0).all()
