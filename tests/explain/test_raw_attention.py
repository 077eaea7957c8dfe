"""Raw attention against its equation."""

import math
from typing import Any

import pytest
import torch

from tests.helpers.explaining import images, observed, small_vit
from tests.helpers.families import Family
from vit_interactions import (
    AttentionRollout,
    InteractionUncertainty,
    RawAttention,
    ResponsiveFieldTendency,
    ZeroMapWarning,
)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_raw_attention_is_the_readouts_row_of_each_layer(family: Family, fusion: Any) -> None:
    model, inputs, attentions, readout = observed(family)
    fuse = {"mean": lambda heads: sum(heads) / len(heads), "max": max, "min": min}[fusion]
    for layer in (*range(family.layers), *range(-family.layers, 0)):
        result = RawAttention(model, layer=layer, fusion=fusion).patch_map(inputs).flatten(1)
        attention = attentions[layer].tolist()
        for b in range(2):
            read = [(token, share) for token, share in enumerate(readout[b].tolist()) if share]
            for patch in (0, 3, family.tokens - family.prefix - 1):
                key = family.prefix + patch
                expected = sum(
                    share * fuse([attention[b][head][token][key] for head in range(family.heads)])
                    for token, share in read
                )
                assert math.isclose(result[b, patch].item(), expected, rel_tol=1e-4, abs_tol=1e-6)
    default = RawAttention(model).patch_map(inputs)
    assert torch.equal(default, RawAttention(model, layer=family.layers - 1).patch_map(inputs))
    assert not torch.allclose(default, RawAttention(model, layer=0).patch_map(inputs), atol=1e-3)


def test_maps_of_a_model_that_attends_uniformly() -> None:
    model = small_vit(depth=3)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:64] = 0.0  # queries and keys
            block.attn.qkv.bias[:64] = 0.0
    assert InteractionUncertainty(model).uncertainty(images()).eq(0).all()
    torch.testing.assert_close(RawAttention(model).patch_map(images()), torch.full((2, 4, 4), 1 / 17))
    torch.testing.assert_close(
        AttentionRollout(model).patch_map(images()), torch.full((2, 4, 4), (1 - 2.0**-3) / 17)
    )
    with pytest.warns(ZeroMapWarning, match="ResponsiveFieldTendency found nothing in images 0, 1"):
        assert ResponsiveFieldTendency(model, alpha=0.0).patch_map(images()).eq(0).all()
