"""Transformer attribution: its rules by hand and by loops, the whole against a slow implementation in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.activations import QuickGELU
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from tests.helpers.chefer_reference import slow_attribution, slow_linear, slow_sum
from tests.helpers.families import Family, tiny
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.explain import transformer_attribution
from vit_interactions.explain.generic_attention import GenericAttention
from vit_interactions.explain.transformer_attribution import RelevanceRules, TransformerAttribution
from vit_interactions.functional.relevance import (
    attention_relevance,
    divide,
    linear_relevance,
    mean_relevance,
    product_relevance,
    sum_relevance,
)

# Rotary embeddings and gates have no rule.
REFUSED = {
    "dinov3": r"`blocks.1.attn` \(EvaAttention\) multiplies each token by different factors",
    "dinov3_qkvb": r"`blocks.1.attn` \(EvaAttention\) multiplies each token by different factors",
    "eva02": r"`blocks.0.mlp` \(GluMlp\) multiplies two tensors",
    "rope_mixed": r"`blocks.1.attn` \(AttentionRope\) multiplies each token by different factors",
    "pe_map": r"`blocks.1.attn` \(AttentionRope\) multiplies each token by different factors",
    "winft": r"computes `window_free_attention` from the image",
    "winft_inf": r"computes `window_free_attention` from the image",
}


def small_vit(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    """A ViT of 2 x 2 patches, two layers, two heads, with every parameter mattering."""
    model = tiny(name, **{"img_size": 32, "embed_dim": 12, **options})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def images(batch: int = 2, size: int = 32) -> Tensor:
    """Random images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


# --- the rules ---


def test_linear_rule_by_hand_and_contribution_by_contribution() -> None:
    one = torch.ones(1)
    shared = linear_relevance(one, torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 2.0]]))
    assert shared.tolist() == [1.0, 0.0]
    assert linear_relevance(one, torch.tensor([1.0]), torch.tensor([[-1.0]])).tolist() == [0.0]
    x, weight, relevance = torch.randn(4, 7).double(), torch.randn(5, 7).double(), torch.randn(4, 5).double()
    shared = linear_relevance(relevance, x, weight)
    torch.testing.assert_close(shared, slow_linear(relevance, x, weight))
    torch.testing.assert_close(shared.sum(-1), relevance.sum(-1))
    assert linear_relevance(relevance.half(), x.half(), weight.half()).dtype == torch.float32


def test_sum_rule_keeps_the_relevance_of_each_image() -> None:
    a, b, relevance = torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double()
    first, second = sum_relevance(relevance, a, b)
    torch.testing.assert_close((first + second).sum((1, 2)), relevance.sum((1, 2)))
    for i in range(3):
        expected = slow_sum(relevance[i], a[i], b[i])
        torch.testing.assert_close((first[i], second[i]), expected)
    first, second = sum_relevance(torch.ones(1, 2), torch.ones(1, 2), -torch.ones(1, 2))
    assert first.eq(0).all()
    assert second.eq(0).all()
    # Relevance that cancels within a branch is not multiplied to infinity.
    first, second = sum_relevance(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])
    )
    assert first.tolist() == [[0.0, 0.0]]
    assert second.tolist() == [[0.0, 2.0]]


def test_mean_and_product_rules() -> None:
    x, relevance = torch.randn(2, 3, 4).double(), torch.randn(2, 1, 4).double()
    shared = mean_relevance(relevance, x, x.sum(1, keepdim=True))
    torch.testing.assert_close(shared.sum(1, keepdim=True), relevance)
    torch.testing.assert_close(shared[0, 1, 2], x[0, 1, 2] / x[0, :, 2].sum() * relevance[0, 0, 2])
    a, b, relevance = torch.randn(3, 4).double(), torch.randn(4, 2).double(), torch.randn(3, 2).double()
    of_a, of_b = product_relevance(relevance, a, b)
    parts = a[:, :, None] * b[None] / (a @ b)[:, None] * relevance[:, None]
    torch.testing.assert_close((of_a, of_b), (parts.sum(2) / 2, parts.sum(0) / 2))
    torch.testing.assert_close(of_a.sum(), relevance.sum() / 2)
    assert divide(torch.tensor([1.0, 0.0, -3.0]), torch.tensor([0.0, 0.0, 2.0])).tolist() == [0.0, 0.0, -1.5]
    attention = torch.rand(2, 3, 3).double().softmax(-1)
    q, k, v = torch.randn(3, 2, 3, 5).double()
    relevance = torch.randn(2, 3, 5).double()
    parts = attention_relevance(relevance, q, k, v, attention)
    total = relevance.sum((1, 2))
    for part, share in zip(parts, (0.25, 0.25, 0.5), strict=True):
        torch.testing.assert_close(part.sum((1, 2)), share * total)


# --- the whole ---


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "deeper": ("vit_tiny_patch16_224", {"depth": 3, "num_heads": 3}),
    "layer scale, q/k norm": ("vit_tiny_patch16_224", {"init_values": 0.7, "qk_norm": True}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "average": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": True}),
    "registers, average": ("vit_medium_patch16_reg4_gap_256", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 28}),
    "QuickGELU of timm": ("vit_tiny_patch16_224", {"act_layer": QuickGELU}),
    "QuickGELU of transformers": ("vit_tiny_patch16_224", {"act_layer": QuickGELUActivation}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("start_layer", [0, 1])
def test_the_map_is_that_of_the_slow_implementation(name: str, start_layer: int) -> None:
    kind, options = MODELS[name]
    model = small_vit(kind, **options).double()
    inputs = images(2, options.get("img_size", 32)).double()
    explainer = TransformerAttribution(model, start_layer)
    for target in (0, 3):
        result = explainer.patch_map(inputs, target=target).flatten(1)
        assert result.dtype == torch.float64
        for b in range(2):
            expected, _ = slow_attribution(model, inputs[b : b + 1], target, start_layer)
            assert expected.max() > 0
            torch.testing.assert_close(result[b], expected, rtol=1e-6, atol=expected.max().item() * 1e-9)


def test_the_relevance_of_each_attention_is_that_of_the_slow_implementation() -> None:
    model, inputs = small_vit(depth=3).double(), images(2).double()
    seen = TransformerAttribution(model)._relevance(inputs, 2, None)
    for b in range(2):
        _, relevances = slow_attribution(model, inputs[b : b + 1], 2)
        for layer, expected in zip(seen.layers(), relevances, strict=True):
            of_attention, _ = product_relevance(layer.output_gradient, layer.attention(), layer.call.value)
            torch.testing.assert_close(of_attention[b], expected, rtol=1e-6, atol=1e-9)
            # Half of what arrives at z goes to the attention; nothing is lost on the way in the last layer's sum.
            torch.testing.assert_close(of_attention[b].sum(), layer.output_gradient[b].sum() / 2)


def test_with_attention_for_relevance_it_is_generic_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = small_vit(), images()
    expected = GenericAttention(model).patch_map(inputs, target=1)
    real = TransformerAttribution(model).patch_map(inputs, target=1)
    monkeypatch.setattr(transformer_attribution, "product_relevance", lambda r, a, b: (a, None))
    torch.testing.assert_close(TransformerAttribution(model).patch_map(inputs, target=1), expected)
    assert (real - expected).abs().max() > 0.01 * expected.max()


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")
def test_no_gradient_no_relevance() -> None:
    model = small_vit()
    assert TransformerAttribution(model).patch_map(images(), target=lambda out: out[:, 0] * 0).eq(0).all()
    nn.init.zeros_(model.head.weight)
    assert TransformerAttribution(model).patch_map(images(), target=0).eq(0).all()


def test_maps_of_every_family_or_its_refusal(family: Family) -> None:
    model, inputs = family.build().requires_grad_(False), family.images()
    explainer = TransformerAttribution(model)
    if family.name in REFUSED:
        with pytest.raises(UnsupportedModelError, match=REFUSED[family.name]):
            explainer.patch_map(inputs, target=1)
        return
    result = explainer.patch_map(inputs, target=1)
    assert result.shape == (2, *family.grid)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert (result >= 0).all()
    assert result.flatten(1).std(1).min() > 0
    assert explainer.attribute(inputs, target=1).shape == inputs.shape
    alone = torch.cat([explainer.patch_map(image[None], target=1) for image in inputs])
    assert (alone - result).abs().max() < 1e-5 * result.max()
    assert (explainer.patch_map(inputs, target=3) - result).abs().max() > 1e-2 * result.max()
    precise = TransformerAttribution(family.build().double()).patch_map(inputs.double(), target=1)
    assert (precise - result).abs().max() < 1e-5 * result.max()
    with RelevanceRules(model):
        output = model(inputs.clone().requires_grad_())
    torch.testing.assert_close(output, model(inputs).double(), rtol=1e-5, atol=1e-5)


def test_float32_models_get_the_map_of_float64_where_sums_cancel() -> None:
    # Rounding of a float32 forward pass moved the map of image 2 by 24% of its largest value, that of image 1 by 3%.
    model, inputs = small_vit(img_size=64, depth=4), images(4, 64)
    single = TransformerAttribution(model).patch_map(inputs, target=0).double()
    double = TransformerAttribution(model.double()).patch_map(inputs.double(), target=0)
    for image, expected in zip(single, double, strict=True):
        assert (image - expected).abs().max() < 1e-3 * expected.max()


def test_everything_is_computed_in_float64_whatever_the_model_asks_for() -> None:
    model, inputs = small_vit(), images()
    with RelevanceRules(model):
        expected = model(inputs.clone().requires_grad_())

    def through_float32(x: Tensor) -> Tensor:
        copy = torch.zeros(x.shape, dtype=torch.float32)
        copy[...] = x.to(torch.float32).type(torch.float32).float()
        return copy.type_as(torch.ones(1)) * torch.ones(12)

    model.blocks[0].drop_path2 = Spoiled(through_float32)
    with RelevanceRules(model):
        output = model(inputs.clone().requires_grad_())
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_images_of_a_batch_do_not_mix_however_different() -> None:
    model, inputs = small_vit().double(), images(3).double() * torch.tensor([1.0, 30.0, 1e-3])[:, None, None, None]
    together = TransformerAttribution(model).patch_map(inputs, target=[0, 1, 2])
    for b in range(3):
        alone = TransformerAttribution(model).patch_map(inputs[b : b + 1], target=b)
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-8, atol=0)


def test_forms_of_targets_and_gradient_modes() -> None:
    model, inputs = small_vit(), images()
    explainer = TransformerAttribution(model)
    expected = explainer.patch_map(inputs, target=model(inputs).argmax(1))
    assert torch.equal(explainer.patch_map((inputs,), target="pred"), expected)
    with torch.no_grad():
        assert torch.equal(explainer.patch_map(inputs, target="pred"), expected)
    with torch.inference_mode():
        assert torch.equal(explainer.patch_map(inputs.clone(), target="pred"), expected)
    difference = explainer.patch_map(inputs, target=lambda out: out[:, 0].exp() - out[:, 1].exp())
    assert difference.isfinite().all()
    with pytest.raises(ValueError, match="`target` must be a class index"):
        explainer.patch_map(inputs)


def test_the_model_is_borrowed_and_training_mode_makes_no_difference() -> None:
    model, inputs = small_vit(drop_rate=0.5, drop_path_rate=0.5).train(), images()
    model.blocks[0].attn.fused_attn = False
    expected = TransformerAttribution(small_vit()).patch_map(inputs, target=0)
    state = torch.get_rng_state()
    torch.testing.assert_close(TransformerAttribution(model).patch_map(inputs, target=0), expected)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(IndexError):
        TransformerAttribution(model).patch_map(inputs, target=99)
    assert all(module.training for module in model.modules())
    assert not model.blocks[0].attn.fused_attn
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.3), (torch.float16, 0.1)])
def test_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    expected = TransformerAttribution(small_vit()).patch_map(images(), target=0)
    result = TransformerAttribution(small_vit().to(dtype)).patch_map(images().to(dtype), target=0)
    with torch.autocast("cpu", dtype):
        cast = TransformerAttribution(small_vit()).patch_map(images(), target=0)
    for half in (result, cast):
        assert half.dtype == torch.float32
        assert (half - expected).abs().max() < tolerance * expected.max()


# --- refusals ---


class Spoiled(nn.Module):
    """Something done to the features after an attention."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        """Take what is done."""
        super().__init__()
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        """Spoil."""
        return self.spoil(x)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (torch.exp, "computes `exp`"),
        (torch.sigmoid, "computes `sigmoid`"),
        (lambda x: x - 2 * x, "computes `sub`"),
        (lambda x: x * F.gelu(x), "multiplies two tensors"),
        (lambda x: x * torch.rand(x.shape[1:]), r"multiplies each token by different factors, of shape \(5, 12\)"),
        (lambda x: x / x.mean(2, keepdim=True), "divides by a tensor"),
        (lambda x: x / torch.rand(12), "divides by a tensor"),
        (lambda x: torch.add(x, x, alpha=2), "adds 2 times"),
        (lambda x: F.linear(x, x[0, :1].expand(12, 12)), "computes weights"),
        (lambda x: x + x.mean(-3), "averages or sums over the batch"),
        (lambda x: F.conv1d(x.mT, torch.ones(12, 12, 1)).mT, "computes `conv1d`"),
        (
            lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3, x[:, None, :, :5])[:, 0],
            "mask of its attention",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(spoil: Callable[[Tensor], Tensor], what: str) -> None:
    model = small_vit()
    model.blocks[0].drop_path2 = Spoiled(spoil)
    with pytest.raises(UnsupportedModelError, match=rf"`blocks.0.drop_path2` \(Spoiled\) .*{what}"):
        TransformerAttribution(model).patch_map(images(), target=0)
    model.blocks[0].drop_path2 = nn.Identity()
    assert TransformerAttribution(model).patch_map(images(), target=0).isfinite().all()


class Doubled(torch.autograd.Function):
    """An operation that no mode can see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute 2 x."""
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Pass the gradient on."""
        return 2 * gradient


@pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")
def test_operations_that_cannot_be_seen_are_refused() -> None:
    model = small_vit()
    model.norm = Spoiled(Doubled.apply)
    with pytest.raises(UnsupportedModelError, match="computes `Doubled`"):
        TransformerAttribution(model).patch_map(images(), target=0)
    model.norm = Spoiled(torch.detach)
    with pytest.raises(UnsupportedModelError, match="does not depend on the image"):
        TransformerAttribution(model)._relevance(images(), 0, None)


def test_scales_and_constants_pass_relevance_unchanged() -> None:
    model, inputs = small_vit().double(), images().double()
    model.blocks[0].ls1 = Spoiled(lambda x: 2 * (x * torch.ones(12).double()) / 2)
    model.blocks[1].ls2 = Spoiled(lambda x: x + torch.zeros(12).double())
    expected = TransformerAttribution(small_vit().double()).patch_map(inputs, target=0)
    torch.testing.assert_close(TransformerAttribution(model).patch_map(inputs, target=0), expected)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="`start_layer` must be >= 0"):
        TransformerAttribution(small_vit(), start_layer=-1)
    with pytest.raises(ValueError, match="`start_layer` must be < 2, the model's layers, got 2"):
        TransformerAttribution(small_vit(), start_layer=2).patch_map(images(), target=0)
