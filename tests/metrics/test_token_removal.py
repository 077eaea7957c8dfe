"""Token curves by hand, and models for which they raise an error."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.helpers.families import FAMILIES, Family, tiny
from tests.helpers.planted import planted_case, random_map, sigmoid
from tests.helpers.token_cases import MEANS, case_of
from vit_interactions.attention import UnsupportedModelError
from vit_interactions.metrics import token_deletion, token_insertion
from vit_interactions.training.teacher import WindowTeacher


@pytest.mark.parametrize("name", MEANS)
def test_models_that_average_tokens_have_curves_from_the_image_to_no_token(name: str) -> None:
    family = FAMILIES[name]
    case, values = case_of(family.build().double(), family.images().double()), random_map(family.grid, 0)
    removed, shown = token_deletion().measure(case, values).curve, token_insertion().measure(case, values).curve
    assert removed is not None
    assert shown is not None
    with torch.no_grad():
        whole = float(case.model(case.inputs).softmax(1)[0, 2])
    assert float(removed[0, 1]) == pytest.approx(whole, abs=1e-10)
    assert float(shown[-1, 1]) == pytest.approx(whole, abs=1e-10)
    assert float(removed[-1, 1]) == float(shown[0, 1])
    assert float(removed[:, 1].max() - removed[:, 1].min()) > 1e-3


def test_window_free_attention_raises(families: dict[str, Family]) -> None:
    family = families["winft"]
    case = case_of(family.build(), family.images())
    with pytest.raises(UnsupportedModelError, match="window-free attention computes its windows from all patches"):
        token_insertion().measure(case, random_map(family.grid, 0))


def test_models_without_a_token_to_attend_to_raise(families: dict[str, Family]) -> None:
    family = families["siglip"]
    case = case_of(family.build(), family.images())
    with pytest.raises(UnsupportedModelError, match="no token is left to attend to if all are masked"):
        token_insertion().measure(case, random_map(family.grid, 0))


def test_unreadable_attention_raises() -> None:
    model = timm.create_model("test_vit", num_classes=5).eval()
    model.blocks[1].attn = Explicit(model.blocks[1].attn)
    case = case_of(model, torch.randn(1, 3, 160, 160))
    with pytest.raises(UnsupportedModelError, match="explicit softmax"):
        token_deletion().measure(case, random_map((10, 10), 0))


class Explicit(nn.Module):
    """Attention without scaled_dot_product_attention, which cannot be intercepted."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, tokens: Tensor, **options: Any) -> Tensor:
        batch, count, width = tokens.shape
        heads = self.attention.num_heads
        query, key, value = self.attention.qkv(tokens).view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-1, -2) * self.attention.scale).softmax(-1)
        return self.attention.proj((attention @ value).transpose(1, 2).reshape(batch, count, width))


def test_models_with_a_window_teacher_raise() -> None:
    model: Any = timm.create_model("awd_vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5).eval()
    model.set_teacher(WindowTeacher(tiny("vit_tiny_patch16_224", img_size=64, depth=3), alpha=0.05))
    case = case_of(model, torch.randn(1, 3, 64, 64))
    with pytest.raises(UnsupportedModelError, match="called scaled_dot_product_attention 5 times, but its own"):
        token_deletion().measure(case, random_map((4, 4), 0))


def test_token_curves_of_the_planted_patch_by_hand() -> None:
    """With uniform attention to the class token and k patches, the logit is 4 * 17 / (1 + k) if red is shown."""
    values = torch.arange(15, -1, -1, dtype=torch.float64).roll(6 - 3).reshape(4, 4)  # red has rank 3
    for metric, shown in (
        (token_insertion(16), lambda k: (k, k > 3)),
        (token_deletion(16), lambda k: (16 - k, k <= 3)),
    ):
        curve = metric.measure(planted_case(), values).curve
        assert curve is not None
        for step in range(17):
            count, red = shown(step)
            assert float(curve[step, 0]) == step / 16
            assert float(curve[step, 1]) == pytest.approx(sigmoid(4.0 * 17 / (1 + count) if red else 0.0))


def test_the_model_is_unchanged() -> None:
    model: Any = tiny("vit_tiny_patch16_224", img_size=64).train()
    model.blocks[0].attn.fused_attn = False
    model.set_grad_checkpointing(True)
    case = case_of(model, torch.randn(1, 3, 64, 64))
    score = token_deletion().measure(case, random_map((4, 4), 0))
    assert 0 <= score.value <= 1
    assert model.training
    assert model.grad_checkpointing
    assert not model.blocks[0].attn.fused_attn
