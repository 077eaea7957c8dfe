"""LibraGrad: a ViT with its backward pass written by hand, completeness, and models without rules."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vit_interactions_adapters.methods import METHODS

import vit_interactions as vi
from tests.helpers.families import FAMILIES
from vit_interactions.explain.options import options_of
from vit_interactions.explain.registry import all_methods

OPTION = {
    *("generic_attention", "gradient_rollout", "dynamic_accumulated_attention"),
    *("attention_grad_cam", "attention_guided_cam"),
    *("input_x_gradient", "integrated_gradients", "layer_grad_cam"),
    *("gradcam", "gradcam_plus_plus", "gradcam_elementwise", "xgradcam", "hirescam", "layercam"),
    *("eigengradcam", "seg_eigencam"),
}


def logits_by_hand(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute timm's ViT with constant attention, standard deviations and gates; also the attention of each block."""

    def norm(layer: Any, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.square().mean(-1, keepdim=True).detach()
        return centered / (variance + layer.eps).sqrt() * layer.weight + layer.bias

    def gelu(x: Tensor) -> Tensor:
        return x * (0.5 * (1 + torch.erf(x / math.sqrt(2)))).detach()

    tokens = model.patch_embed(images)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), tokens], 1) + model.pos_embed
    attentions = []
    for block in model.blocks:
        heads = block.attn.num_heads
        qkv = block.attn.qkv(norm(block.norm1, tokens)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (qkv[0] @ qkv[1].mT / qkv[0].shape[-1] ** 0.5).softmax(-1).detach().requires_grad_()
        attentions.append(attention)
        tokens = tokens + block.attn.proj((attention @ qkv[2]).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp.fc2(gelu(block.mlp.fc1(norm(block.norm2, tokens))))
    return model.head(norm(model.norm, tokens)[:, 0]), attentions


@pytest.fixture
def biased(model: nn.Module) -> nn.Module:
    """Give every bias a value, so that all of them have a share in the score."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


def test_image_biases_and_embeddings_times_gradient_sum_to_the_score(biased: nn.Module, images: Tensor) -> None:
    # FullGrad-completeness: f(x) = Σ x · df/dx + Σ b · df/db
    leaf = images.clone().requires_grad_()
    logits, _ = logits_by_hand(biased, leaf)
    torch.testing.assert_close(logits, biased(images), rtol=0, atol=1e-12)
    names, added = zip(
        *((n, p) for n, p in biased.named_parameters() if n.endswith(("bias", "cls_token", "pos_embed"))),
        strict=True,
    )
    assert len(names) > 20
    for index, target in enumerate((1, 3)):
        of_image, *of_added = torch.autograd.grad(logits[index, target], [leaf, *added], retain_graph=True)
        shares = [(value * gradient).sum() for value, gradient in zip(added, of_added, strict=True)]
        total = (images * of_image).sum() + torch.stack(shares).sum()
        assert float(total.detach()) == pytest.approx(float(logits[index, target].detach()), abs=1e-10)
        # The same gradient as the library's, which does not touch the parameters.
        found = METHODS["input_x_gradient"](biased, gradient="libra").attribute(images, [1, 3])
        torch.testing.assert_close(found[index], (images * of_image)[index], rtol=0, atol=1e-12)


def test_input_times_gradient_sums_to_the_score_difference(model: nn.Module, images: Tensor) -> None:
    # Without biases and embeddings, the score of a black image is 0.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "cls_token", "pos_embed")):
                parameter.zero_()
        difference = model(images)[:, 2] - model(torch.zeros_like(images))[:, 2]
    libra, plain = (
        METHODS["input_x_gradient"](model, gradient=gradient).patch_map(images, 2).sum((1, 2))
        for gradient in ("libra", "plain")
    )
    torch.testing.assert_close(libra, difference, rtol=1e-10, atol=1e-10)
    lrp = vi.AttnLRP(model, conv_gamma=0.0, linear_gamma=0.0).patch_map(images, 2)
    torch.testing.assert_close(METHODS["input_x_gradient"](model, gradient="libra").patch_map(images, 2), lrp)
    assert ((plain - difference).abs() > 0.1 * difference.abs()).all()


@pytest.mark.parametrize("name", ["dinov3", "eva02", "siglip", "naflex_map", "winft", "parallel_scaling"])
def test_other_families_are_complete_too(name: str) -> None:
    model, images = FAMILIES[name].build().double(), FAMILIES[name].images().double()
    # Without biases and embeddings, the score is gradient times image.
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if part.endswith(("bias", "token", "pos_embed", "latent")):
                parameter.zero_()
        score = model(images)[:, 1]
    found = METHODS["input_x_gradient"](model, gradient="libra").patch_map(images, 1).sum((1, 2))
    torch.testing.assert_close(found, score, rtol=1e-8, atol=1e-10)


def test_generic_attention_by_hand(biased: nn.Module, images: Tensor) -> None:
    # R <- R + E R,  E = mean over heads of max(A * G, 0),  G = dS/dA of LibraGrad's backward pass
    logits, attentions = logits_by_hand(biased, images)
    gradients = torch.autograd.grad(logits[:, 2].sum(), attentions)
    relevance = torch.eye(17, dtype=torch.float64)
    for attention, gradient in zip(attentions, gradients, strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(1).detach() @ relevance
    found = vi.GenericAttention(biased, gradient="libra").patch_map(images, 2)
    torch.testing.assert_close(found.flatten(1), relevance[:, 0, 1:], rtol=0, atol=1e-12)
    assert not torch.allclose(found, vi.GenericAttention(biased).patch_map(images, 2), rtol=0.1)


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")
@pytest.mark.parametrize("name", sorted(OPTION))
def test_the_default_is_the_plain_gradient(name: str, model: nn.Module, images: Tensor) -> None:
    method: Any = all_methods()[name]
    plain, default = method(model, gradient="plain"), method(model)
    assert torch.equal(plain.patch_map(images, 1), default.patch_map(images, 1))
    found = method(model, gradient="libra").patch_map(images, 1)
    assert found.isfinite().all()
    assert not torch.allclose(found, default.patch_map(images, 1))
    with pytest.raises(ValueError, match="`gradient` must be one of 'plain', 'libra', got 'full'"):
        method(model, gradient="full")


def test_only_methods_of_gradients_have_the_option() -> None:
    assert {name for name, method in all_methods().items() if "gradient" in options_of(method)} == OPTION


class Waves(nn.Module):
    """A ViT whose logits go through a sine."""

    def __init__(self, vit: nn.Module) -> None:
        """Take the ViT."""
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        """Classify images."""
        return torch.sin(self.vit(images))


@pytest.mark.parametrize("name", ["generic_attention", "input_x_gradient", "gradcam"])
def test_operations_without_a_rule_are_named(name: str, model: nn.Module, images: Tensor) -> None:
    method: Any = all_methods()[name]
    with pytest.raises(
        vi.UnsupportedModelError, match="computes `sin` from the image, for which LibraGrad has no"
    ):
        method(Waves(model), gradient="libra").patch_map(images, 1)
    assert method(Waves(model)).patch_map(images, 1).isfinite().all()
