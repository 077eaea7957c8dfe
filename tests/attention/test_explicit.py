"""Test that attention computed explicitly is recorded like fused attention, and that other softmaxes are ignored."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explaining import OF_TOKENS
from tests.helpers.twins import Attends, Outer, assert_twins, attending, fused, images, vit
from vit_interactions import UnsupportedModelError
from vit_interactions.attention.explicit import SoftmaxWatch


def matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1), v)


def operator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def in_float32_with_dropout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return nn.functional.dropout(nn.functional.softmax(scores, -1, dtype=torch.float64), 0.0).to(v.dtype) @ v


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhij, bhjd -> bhid", scores.softmax(-1), v)


@pytest.mark.parametrize("attend", [matmul, operator, in_float32_with_dropout, einsum])
def test_an_explicit_softmax_is_read_like_the_fused_call(attend: Any) -> None:
    assert_twins(attending(attend), vit())


def scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(((q * q.shape[-1] ** -0.5) @ k.mT).flatten(0, 1).softmax(2), v.flatten(0, 1)).view_as(v)


def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias, mask = masks(q)
    return (q @ k.mT / q.shape[-1] ** 0.5 + bias).masked_fill(~mask, -torch.inf).softmax(-1) @ v


def fused_and_biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias, mask = masks(q)
    return fused(q, k, v, bias.expand(mask.shape).masked_fill(~mask, -torch.inf))


def masks(q: Tensor) -> tuple[Tensor, Tensor]:
    tokens = q.shape[-2]
    far = torch.arange(tokens)[:, None] - torch.arange(tokens) > 12
    return torch.linspace(-2, 2, tokens).to(q), ~far


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "beyond_intuition": [{"start": 1, "variant": "head"}],
    "transition_attention": [{"start": 1}],
    "attn_lrp": [{"variant": "attn"}, {"variant": "cp"}],
    "transformer_attribution": [{}, {"start_layer": 1}],
}


# Tokens cannot be masked in a softmax that is written out, which these methods say.
@pytest.mark.parametrize("name", sorted(set(vi.EXPLAINERS) - set(OF_TOKENS)))
def test_no_method_depends_on_how_the_softmax_is_written(name: str) -> None:
    pairs = [(attend, fused) for attend in (matmul, in_float32_with_dropout, einsum, scaled_before)]
    for attend, twin in [*pairs, (biased, fused_and_biased)]:
        for options in OPTIONS.get(name, [{}]):
            explainer, other = (vi.EXPLAINERS[name](attending(way), **options) for way in (attend, twin))
            found, wanted = explainer.patch_map(images(), 1), other.patch_map(images(), 1)
            assert wanted.any()
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max(), attend.__name__


def test_attention_guided_cam_of_an_explicit_softmax_is_its_equation() -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def keeping(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        kept.append((scores, scores.softmax(-1)))
        return kept[-1][1] @ v

    model = attending(keeping)
    score = model(images())[:, 1].sum()
    gradients = torch.autograd.grad(score, [attention for _, attention in kept])
    expected = sum(
        (gradient.clamp(min=0) * scores.sigmoid()).sum(1)[:, 0, 1:]
        for (scores, _), gradient in zip(kept, gradients, strict=True)
    )
    found = vi.AttentionGuidedCAM(model).patch_map(images(), 1)
    torch.testing.assert_close(found.flatten(1), expected.detach())


def test_a_softmax_over_the_queries_is_no_attention_of_theirs() -> None:
    def over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-2) @ v

    with pytest.raises(UnsupportedModelError, match=r"`blocks.0.attn` computes its attention by a softmax"):
        vi.AttentionRollout(attending(over_queries)).patch_map(images())


class OwnSoftmax(nn.Module):
    """Attends by a softmax module, as vit-pytorch does."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.Softmax(dim=-1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.matmul(self.attend(q @ k.mT / q.shape[-1] ** 0.5), v)


def all_heads_first(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the softmaxes of all heads before any of them multiplies values."""
    heads = range(query.shape[1])
    chosen = [(query[:, i] @ key[:, i].mT * query.shape[-1] ** -0.5).softmax(-1) for i in heads]
    return torch.stack([chosen[i] @ value[:, i] for i in heads], 1)


def test_softmaxes_of_all_heads_may_come_before_their_products() -> None:
    model = attending(all_heads_first)
    assert len(vi.probe(model, images()).structure.layers) == 3
    assert_twins(model, vit())


def test_a_module_of_its_own_for_the_softmax_is_followed() -> None:
    model = vit()
    for block in model.blocks:
        block.attn = Attends(block.attn, OwnSoftmax())
    assert_twins(model, vit())


def talking_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    attention = (q @ k.mT).softmax(-1)
    return (0.6 * attention + 0.4 * attention.flip(1)) @ v


def summed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT / 4).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


@pytest.mark.parametrize("attend", [talking_heads, summed])
@pytest.mark.parametrize("layer", [0, 1, 2, "all"])
def test_what_is_no_plain_softmax_is_refused(attend: Any, layer: Any) -> None:
    model, other = vit(), attending(attend)
    for index in range(3):
        if layer in (index, "all"):
            model.blocks[index] = other.blocks[index]
    with pytest.raises(UnsupportedModelError, match=r"softmax|exchange information|not mixed before|no attention"):
        vi.InteractionUncertainty(model).patch_map(images())


class Routed(nn.Module):
    """A mixture of experts: a softmax that weighs, and is no attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 2)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], -2)
        return (weights.unsqueeze(-2) @ outputs).squeeze(-2)


def test_routers_gates_and_outputs_are_left_alone() -> None:
    torch.manual_seed(0)
    model = vit()
    for block in model.blocks:
        block.mlp = Routed(32).double()
    seen = vi.probe(model, images())
    assert len(seen.calls) == len(seen.structure.layers) == 3
    squares = Outer(
        vit(), after=lambda x: x.reshape(len(x), 1, 1, -1).expand(-1, 1, 5, 5).softmax(-1).mean((1, 2))
    )
    assert_twins_rollout(squares, vit())


def assert_twins_rollout(model: nn.Module, twin: nn.Module) -> None:
    torch.testing.assert_close(
        vi.AttentionRollout(model).patch_map(images()), vi.AttentionRollout(twin).patch_map(images())
    )


def watched(name: str = "attn") -> tuple[SoftmaxWatch, Tensor, Tensor]:
    """Return a watch that follows the softmax of a module, with probabilities and values."""
    watch = SoftmaxWatch()
    scores = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    attention = scores.softmax(-1)
    watch.follow(name, (scores, -1), {}, attention)
    return watch, attention, torch.ones(1, 2, 3, 4)


def test_a_product_of_the_same_module_is_read_once() -> None:
    watch, attention, value = watched()
    found = watch.read("attn", torch.matmul, (attention, value), attention @ value)
    assert found is not None
    torch.testing.assert_close(found.scores().softmax(-1), attention)
    assert (watch.watching, watch.unread) == (False, [])


def test_a_product_of_another_module_is_no_attention() -> None:
    watch, attention, value = watched("blocks.0.router")
    assert watch.read("blocks.0.experts", torch.matmul, (attention, value), attention @ value) is None
    assert watch.read("blocks.0.rout", torch.matmul, (attention, value), attention @ value) is None
    assert (watch.watching, watch.unread) == (True, [])
    assert watch.read("blocks.0", torch.matmul, (attention, value), attention @ value) is not None


@pytest.mark.parametrize("equation", ["bhqk,bhqd->bhkd", "bhqk,bhkd->bqhd", "bhqk,bhkd", "bhqk,bgkd->bhqd"])
def test_an_einsum_of_another_form_is_named(equation: str) -> None:
    watch, attention, value = watched()
    assert watch.read("attn", torch.einsum, (equation, attention, value), None) is None
    assert watch.unread == ["attn"]


def test_gates_are_not_named() -> None:
    watch = SoftmaxWatch()
    scores = torch.rand(1, 5, 3)
    gates = scores.softmax(-1)
    watch.follow("moe", (scores,), {"dim": -1}, gates)
    assert watch.read("moe", torch.matmul, (torch.rand(1, 4, 5), gates), None) is None
    assert watch.unread == []
