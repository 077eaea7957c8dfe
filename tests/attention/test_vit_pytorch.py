"""Tests of vit-pytorch's models, which compute attention explicitly, against maps computed by hand."""

from typing import Any

import pytest
import torch
from torch import nn

import vit_interactions as vi
from tests.helpers.foreign import assert_read_as_by_hand, class_token, redraw

vit_pytorch = pytest.importorskip("vit_pytorch")
OPTIONS: dict[str, Any] = {"patch_size": 16, "num_classes": 5, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48}
SIZE = (48, 64)


def build(kind: Any = vit_pytorch.ViT, **options: Any) -> nn.Module:
    return redraw(kind(image_size=SIZE, **{**OPTIONS, "dim_head": 16, **options}))


def softmaxes(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Softmax)]


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [
        ("cls", "3 x 4 patches of 16 x 16 px, 1 prefix token, read from: class token, 2 layers in series"),
        (
            "mean",
            "3 x 4 patches of 16 x 16 px, 0 prefix tokens, read from: mean of the patches, 2 layers in series",
        ),
    ],
)
def test_vit(pool: str, sentence: str) -> None:
    model = build(pool=pool)
    assert str(vi.probe(model, SIZE)) == sentence
    reads = class_token(13) if pool == "cls" else torch.full((12,), 1 / 12)
    assert_read_as_by_hand(model, torch.rand(2, 3, *SIZE), softmaxes, reads)


def test_simple_vit() -> None:
    simple_vit = pytest.importorskip("vit_pytorch.simple_vit")
    model = build(simple_vit.SimpleViT)
    assert vi.probe(model, SIZE).layout == vi.TokenLayout(0, 3, 4, "avg", SIZE)
    assert_read_as_by_hand(model, torch.rand(1, 3, *SIZE), softmaxes, torch.full((12,), 1 / 12))


def test_attention_that_is_mixed_among_heads_is_refused_by_name() -> None:
    deepvit = pytest.importorskip("vit_pytorch.deepvit")
    model = deepvit.DeepViT(image_size=64, **OPTIONS)
    with pytest.raises(vi.UnsupportedModelError, match=r"transformer\.layers\.0\.0.*Talking heads"):
        vi.probe(model, (64, 64))
