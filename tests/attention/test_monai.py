"""Tests of MONAI's ViT, which computes attention by einsum and returns a tuple, against maps computed by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import vit_interactions as vi
from tests.helpers.foreign import assert_read_as_by_hand, class_token, redraw

nets = pytest.importorskip("monai.networks.nets")
SIZE = (48, 64)
OPTIONS: dict[str, Any] = {"hidden_size": 32, "mlp_dim": 48, "num_layers": 2, "num_heads": 2, "spatial_dims": 2}


def build(channels: int = 3, **options: Any) -> nn.Module:
    return redraw(nets.ViT(channels, SIZE, 16, **{**OPTIONS, "num_classes": 5, **options}))


def dropouts(model: Any) -> list[nn.Module]:
    return [block.attn.drop_weights for block in model.blocks]


@pytest.mark.parametrize("embedding", ["conv", "perceptron"])
def test_classifier(embedding: str) -> None:
    model = build(classification=True, proj_type=embedding)
    sentence = "3 x 4 patches of 16 x 16 px, 1 prefix token, read from: class token, 2 layers in series"
    assert str(vi.probe(model, SIZE)) == sentence
    assert_read_as_by_hand(model, torch.rand(2, 3, *SIZE), dropouts, class_token(13))


def test_tokens() -> None:
    sentence = "3 x 4 patches of 16 x 16 px, 0 prefix tokens, read from: mean of the patches, 2 layers in series"
    assert str(vi.probe(build(), SIZE)) == sentence


def test_scans_of_one_channel() -> None:
    model = build(1, classification=True)
    assert vi.probe(model, torch.rand(1, 1, *SIZE)).layout.grid == (3, 4)
    assert vi.AttentionRollout(model).patch_map(torch.rand(2, 1, *SIZE)).shape == (2, 3, 4)


def test_fused_and_explicit_attention_agree() -> None:
    explicit = build(classification=True)
    fused = copy.deepcopy(explicit)
    for block in fused.blocks:  # type: ignore[union-attr]
        block.attn.use_flash_attention = True  # type: ignore[union-attr]
    images = torch.rand(2, 3, *SIZE)
    maps = [vi.AttentionRollout(model).patch_map(images) for model in (explicit, fused)]
    torch.testing.assert_close(*maps, rtol=1e-5, atol=1e-7)
