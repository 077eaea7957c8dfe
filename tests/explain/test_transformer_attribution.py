"""Transformer attribution against a slow implementation in float64."""

from typing import Any

import pytest
import torch
from timm.layers.activations import QuickGELU
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from tests.helpers.chefer_reference import ratio, slow_linear, slow_sum
from tests.helpers.families import Family
from tests.helpers.small_vits import Spoiled, images, small_vit
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.explain import transformer_attribution
from vit_interactions.explain.generic_attention import GenericAttention
from vit_interactions.explain.transformer_attribution import RelevanceRules, TransformerAttribution
from vit_interactions.functional.relevance import linear_relevance, product_relevance

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


def slow_attribution(model: Any, image: Tensor, target: int, start_layer: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Compute the map (patches,) of one image (1, 3, H, W), and the relevance of each layer's attention."""
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image))))[0].detach()
    seen: list[dict[str, Tensor]] = []
    for block in model.blocks:
        attn = block.attn
        s: dict[str, Tensor] = {"in": tokens, "normed": block.norm1(tokens)}
        q, k, v = attn.qkv(s["normed"]).view(len(tokens), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
        s["q"], s["k"], s["v"] = attn.q_norm(q), attn.k_norm(k), v
        s["A"] = (s["q"] @ s["k"].mT * q.shape[-1] ** -0.5).softmax(-1)
        s["z"] = s["A"] @ v
        s["mixed"] = s["z"].transpose(0, 1).flatten(1)
        s["projected"] = block.ls1(attn.proj(s["mixed"]))
        s["middle"] = tokens + s["projected"]
        s["normed2"] = block.norm2(s["middle"])
        s["active"] = block.mlp.act(block.mlp.fc1(s["normed2"]))
        s["out"] = block.ls2(block.mlp.fc2(s["active"]))
        tokens = s["middle"] + s["out"]
        seen.append(s)
    features = model.norm(tokens)
    prefix = model.num_prefix_tokens
    readout = torch.zeros(len(tokens)).double()
    if getattr(model, "head_dist", None) is not None:
        logits = (model.head(features[0]) + model.head_dist(features[1])) / 2
        pooled, heads = features[:2], [(model.head, 0.5, 0), (model.head_dist, 0.5, 1)]
        readout[:2] = 0.5
    elif model.global_pool == "avg":
        pooled = model.fc_norm(features[prefix:].mean(0))[None]
        logits, heads = model.head(pooled[0]), [(model.head, 1.0, 0)]
        readout[prefix:] = 1 / len(features[prefix:])
    else:
        pooled, heads = features[:1], [(model.head, 1.0, 0)]
        logits = model.head(features[0])
        readout[0] = 1.0
    gradients = torch.autograd.grad(logits[target], [s["A"] for s in seen])

    relevance = torch.zeros_like(features)
    one_hot = torch.eye(len(logits)).double()[None, target]
    for head, share, row in heads:
        of_pooled = slow_linear(one_hot * share, pooled[row][None], head.weight)
        if model.global_pool == "avg":
            of_mean = ratio(of_pooled, features[prefix:].sum(0, keepdim=True))
            relevance[prefix:] = features[prefix:] * of_mean
        else:
            relevance[row] = of_pooled[0]

    relevances: list[Tensor] = []
    state = readout
    for layer in reversed(range(len(seen))):
        s, block = seen[layer], model.blocks[layer]
        kept, through = slow_sum(relevance, s["middle"], s["out"])
        through = slow_linear(through, s["active"], block.mlp.fc2.weight)
        relevance = kept + slow_linear(through, s["normed2"], block.mlp.fc1.weight)
        kept, through = slow_sum(relevance, s["in"], s["projected"])
        through = slow_linear(through, s["mixed"], block.attn.proj.weight)
        t = ratio(through.view(len(tokens), block.attn.num_heads, -1).transpose(0, 1), s["z"])
        of_attention = s["A"] * (t @ s["v"].mT) / 2
        of_value = s["v"] * (s["A"].mT @ t) / 2
        t = ratio(of_attention, s["q"] @ s["k"].mT)
        of_query, of_key = s["q"] * (t @ s["k"]) / 2, s["k"] * (t.mT @ s["q"]) / 2
        of_qkv = torch.stack([of_query, of_key, of_value]).permute(2, 0, 1, 3).flatten(1)
        relevance = kept + slow_linear(of_qkv, s["normed"], block.attn.qkv.weight)
        relevances.insert(0, of_attention.detach())
        if layer >= start_layer:
            state = state + state @ (gradients[layer] * of_attention).clamp(min=0).mean(0)
    return (state - readout)[prefix:].detach(), relevances


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


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_products_with_weights_keep_their_precision_and_all_else_is_float64(
    dtype: torch.dtype, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(*given: Tensor) -> Tensor:
        seen.extend(each.dtype for each in given)
        return linear_relevance(*given)

    monkeypatch.setattr(transformer_attribution, "linear_relevance", spy)
    model, inputs = small_vit().to(dtype), images().to(dtype)
    explainer = TransformerAttribution(model)
    assert explainer._relevance(inputs, 0, None).gradients[0].dtype == torch.float64
    assert set(seen) == {expected}


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
