"""Attention in few levels: its error is at most half a level."""

import pytest
import torch

from vit_interactions.explorer.quantize import quantize_rows, row_ends


@pytest.mark.parametrize("levels", [16, 256])
def test_quantization_error_is_at_most_half_a_level(levels: int) -> None:
    attention = (torch.randn(2, 5, 5, dtype=torch.float64) * 3).softmax(-1)
    attention[0, 1] = 0.0
    peak = attention.amax(-1, keepdim=True)
    quantized = quantize_rows(attention, row_ends(attention), levels)
    roots = quantized.double() / (levels - 1) * peak.sqrt()
    assert ((roots - attention.sqrt()).abs() <= 0.5001 / (levels - 1) * peak.sqrt()).all()
    assert (quantized[0, 1] == 0).all()


@pytest.mark.parametrize("levels", [16, 256])
def test_a_sink_leaves_levels_for_the_others(levels: int) -> None:
    attention = torch.rand(3, 196, dtype=torch.float64) + 1
    attention[:, 5] = 1000.0
    ends = row_ends(attention)
    # The square roots of the others are at most sqrt(2 / 1000) = 4.5% of the sink's.
    assert ((ends > 0) & (ends <= 12)).all()
    quantized = quantize_rows(attention, ends, levels)
    assert (quantized[:, 5] == levels - 1).all()
    assert (quantized.median(-1).values > levels / 2).all()
    roots = quantized.double() / (levels - 1) * (ends[:, None] / 255) * 1000**0.5
    others = torch.arange(196) != 5
    error = (roots - attention.sqrt()).abs()[:, others]
    assert error.max() <= 0.5001 / (levels - 1) * float(ends.max()) / 255 * 1000**0.5
