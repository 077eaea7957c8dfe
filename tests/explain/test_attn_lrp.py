"""Tests of AttnLRP against a slow propagation written from the rules, contribution by contribution."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.families import Family, tiny
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.attn_lrp import AttnLRP, sum_patches
from vit_interactions.explain.lrp_rules import LRPRules
from vit_interactions.functional.lrp import gamma_rule

PLAIN: dict[str, Any] = {"conv_gamma": 0, "linear_gamma": None}


class SlowLRP:
    """Relevance through a timm ViT for one image, from relevance to relevance; `absorbed` is what biases keep."""

    def __init__(self, model: Any, image: Tensor, target: int, options: dict[str, Any]) -> None:
        """Run forward, then all the way down to `pixels`."""
        self.variant = options.get("variant", "cp")
        self.gammas = (options.get("conv_gamma", 0.25) or 0.0, options.get("linear_gamma", 0.05) or 0.0)
        self.absorbed = 0.0
        patches = F.unfold(image, 16, stride=16)[0].T
        kernel = model.patch_embed.proj.weight.flatten(1)
        embedded = torch.cat([model.cls_token[0], F.linear(patches, kernel, model.patch_embed.proj.bias)])
        tokens = embedded + model.pos_embed[0]
        below: list[Callable[[Tensor], Tensor]] = []
        for block in model.blocks:
            tokens, down = self._block(block, tokens)
            below.append(down)
        features = model.norm(tokens)
        logits = model.head(features[0])
        self.logit = logits[target]
        relevance = torch.zeros_like(features)
        relevance[:1] = self._linear(
            model.head, features[:1], logits[None] * torch.eye(len(logits)).double()[target]
        )
        relevance = self._norm(model.norm, tokens, relevance)
        for down in reversed(below):
            relevance = down(relevance)
        relevance, positions = self._split(embedded, model.pos_embed[0], relevance)
        self.absorbed += relevance[0].sum().item() + positions.sum().item()
        relevance = self._linear(model.patch_embed.proj, patches, relevance[1:], self.gammas[0])
        self.pixels = F.fold(relevance.T[None], image.shape[-2:], 16, stride=16)

    def _linear(self, layer: Any, x: Tensor, relevance: Tensor, gamma: float | None = None) -> Tensor:
        gamma = self.gammas[1] if gamma is None else gamma
        parts = torch.einsum("ni,ji->nji", x, layer.weight.flatten(1))
        parts = torch.cat([parts, layer.bias.expand(len(x), -1)[..., None]], -1)
        same_sign = parts * parts.sum(-1, keepdim=True) > 0
        parts = torch.where(same_sign, parts * (1 + gamma), parts)
        shares = (parts / parts.sum(-1, keepdim=True) * relevance[..., None]).sum(1)
        self.absorbed += shares[:, -1].sum().item()
        return shares[:, :-1]

    def _norm(self, layer: Any, x: Tensor, relevance: Tensor) -> Tensor:
        width = x.shape[-1]
        std = (x.var(-1, correction=0) + layer.eps).sqrt()
        matrix = (torch.eye(width).double() - 1 / width) * layer.weight[:, None]
        parts = torch.einsum("ni,ji->nji", x, matrix) / std[:, None, None]
        shares = parts / layer(x)[..., None] * relevance[..., None]
        self.absorbed += (relevance.sum() - shares.sum()).item()
        return shares.sum(1)

    def _split(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        return a / (a + b) * relevance, b / (a + b) * relevance

    def _block(self, block: Any, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        attn, heads = block.attn, block.attn.num_heads
        normed = block.norm1(x)
        q, k, v = attn.qkv(normed).view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        attention = scores.softmax(-1)
        z = attention @ v
        mixed = z.transpose(0, 1).flatten(1)
        projected = attn.proj(mixed)
        middle = x + projected
        normed2 = block.norm2(middle)
        hidden = block.mlp.fc1(normed2)
        active = F.gelu(hidden)
        out = block.mlp.fc2(active)

        def down(relevance: Tensor) -> Tensor:
            kept, through = self._split(middle, out, relevance)
            through = self._linear(block.mlp.fc1, normed2, self._linear(block.mlp.fc2, active, through))
            kept, through = self._split(x, projected, kept + self._norm(block.norm2, middle, through))
            through = self._linear(attn.proj, mixed, through).view(len(x), heads, -1).transpose(0, 1)
            share = attention[..., None] * v[:, None] / z[:, :, None] * through[:, :, None]  # head, i, j, width
            if self.variant == "cp":
                relevances = torch.zeros_like(q), torch.zeros_like(k), share.sum(1)
            else:
                # softmax: R_s = s (R_a - a Σ R_a), with half of the share; then half each to q and k.
                r = share.sum(-1) / 2
                r = scores * (r - attention * r.sum(-1, keepdim=True))
                pair = q[:, :, None] * k[:, None] * q.shape[-1] ** -0.5 / scores[..., None] * r[..., None] / 2
                relevances = pair.sum(2), pair.sum(1), share.sum(1) / 2
            through = torch.stack(relevances).permute(2, 0, 1, 3).flatten(1)
            return kept + self._norm(block.norm1, x, self._linear(attn.qkv, normed, through))

        return middle + out, down


def without_biases(model: nn.Module) -> nn.Module:
    """Zero everything that is added and does not come from the image."""
    added = ("bias", "cls_token", "dist_token", "reg_token", "pos_embed", "embeds.pos_embed", "beta")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(added) and "rel_pos" not in name:
                parameter.zero_()
    return model


def small_vit(**options: Any) -> Any:
    """Build a ViT of 2 x 2 patches, two layers, two heads."""
    return tiny("vit_tiny_patch16_224", **{"img_size": 32, "embed_dim": 12, **options})


def images(batch: int = 2, size: int = 32) -> Tensor:
    """Random images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def randomize(model: nn.Module) -> nn.Module:
    """Give every bias, norm weight and embedding a value that matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.2)
    return model


# --- the model ---


@pytest.mark.parametrize(
    "options",
    [{}, PLAIN, {"variant": "attn"}, {"variant": "attn", **PLAIN}, {"conv_gamma": 1.0, "linear_gamma": 0.5}],
    ids=str,
)
@torch.no_grad()
def test_the_map_is_the_slow_propagation_of_relevance(options: dict[str, Any]) -> None:
    model, inputs = randomize(small_vit().double()), images().double()
    for target in (0, 3):
        result = AttnLRP(model, **options).attribute(inputs, target=target)
        for b in range(2):
            slow = SlowLRP(model, inputs[b : b + 1], target, options)
            torch.testing.assert_close(result[b : b + 1], slow.pixels, rtol=1e-6, atol=1e-9)
            total = slow.pixels.sum() + slow.absorbed
            torch.testing.assert_close(slow.logit, model(inputs[b : b + 1])[0, target])
            if options.get("variant") != "attn":
                torch.testing.assert_close(total, slow.logit)
            elif options == {"variant": "attn", **PLAIN}:
                assert (total - slow.logit).abs() > 0.01


@pytest.mark.parametrize("options", [PLAIN, {}], ids=["plain", "gamma"])
def test_without_biases_the_pixels_sum_to_the_score(family: Family, options: dict[str, Any]) -> None:
    model, inputs = without_biases(family.build().double()), family.images().double()
    result = AttnLRP(model, **options).attribute(inputs, target=2)
    scores = model(inputs)[:, 2].detach()
    assert scores.abs().min() > 1e-4
    torch.testing.assert_close(result.sum((1, 2, 3)), scores, rtol=1e-4, atol=1e-7)


def test_the_forward_pass_is_unchanged(family: Family) -> None:
    model, inputs = family.build(), family.images()
    expected = model(inputs)
    for variant in ("cp", "attn"):
        with LRPRules(model, variant, 0.25, 0.05):
            output = model(inputs.clone().requires_grad_())
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["cp", "attn"])
def test_maps_of_every_family(family: Family, variant: Any) -> None:
    model, inputs = family.build().requires_grad_(False), family.images()
    explainer = AttnLRP(model, variant)
    pixels, patches = explainer.attribute(inputs, target=1), explainer.patch_map(inputs, target=1)
    assert pixels.shape == inputs.shape
    assert patches.shape == (2, *family.grid)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert not pixels.requires_grad
    torch.testing.assert_close(patches.sum((1, 2)), pixels.sum((1, 2, 3)), rtol=1e-4, atol=1e-5)
    alone = torch.cat([explainer.attribute(image[None], target=1) for image in inputs])
    assert (alone - pixels).abs().max() < 1e-4 * pixels.abs().max()
    assert (explainer.patch_map(inputs, target=3) - patches).abs().max() > 1e-2 * patches.abs().max()


def test_forms_of_inputs_and_targets() -> None:
    model, inputs = small_vit(), images()
    explainer = AttnLRP(model)
    expected = explainer.attribute(inputs, target=model(inputs).argmax(1))
    assert torch.equal(explainer.attribute((inputs,), target="pred")[0], expected)
    with torch.inference_mode():
        assert torch.equal(explainer.attribute(inputs.clone(), target="pred"), expected)
    with torch.no_grad():
        difference = explainer.attribute(inputs, target=lambda out: out[:, 0] - 2 * out[:, 1])
    parts = explainer.attribute(inputs, target=0) - 2 * explainer.attribute(inputs, target=1)
    torch.testing.assert_close(difference, parts, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="`target` must be a class index"):
        explainer.attribute(inputs)


def test_the_model_is_borrowed_and_training_mode_makes_no_difference() -> None:
    model, inputs = small_vit(drop_rate=0.5, drop_path_rate=0.5).train(), images()
    expected = AttnLRP(small_vit()).attribute(inputs, target=0)
    state = torch.get_rng_state()
    assert torch.equal(AttnLRP(model).attribute(inputs, target=0), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(IndexError):
        AttnLRP(model).attribute(inputs, target=99)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    expected = AttnLRP(small_vit()).patch_map(images(), target=0)
    result = AttnLRP(small_vit().to(dtype)).patch_map(images().to(dtype), target=0)
    with torch.autocast("cpu", dtype):
        cast = AttnLRP(small_vit()).patch_map(images(), target=0)
    for half in (result, cast):
        assert half.dtype == torch.float32
        assert (half - expected).abs().max() < tolerance * expected.abs().max()


def test_patches_are_sums_of_their_pixels() -> None:
    pixels = torch.randn(2, 3, 7, 10)
    inside = TokenLayout(prefix=0, rows=2, cols=3, readout="avg", extent=(6, 9))
    patches = sum_patches(pixels, inside)
    beyond = sum_patches(pixels, TokenLayout(prefix=0, rows=2, cols=3, readout="avg", extent=(8, 12)))
    for row in range(2):
        for col in range(3):
            for result, side in ((patches, 3), (beyond, 4)):
                block = pixels[:, :, side * row : side * (row + 1), side * col : side * (col + 1)]
                torch.testing.assert_close(result[:, row, col], block.sum((1, 2, 3)))


# --- operations ---


def passed(function: Callable[[Tensor], Tensor], x: Tensor, variant: Any = "cp") -> Tensor:
    """Compute the gradient of function(x).sum() under the rules."""
    x = x.clone().requires_grad_()
    with LRPRules(nn.Identity(), variant, 0.0, 0.0):
        y = function(x)
    return torch.autograd.grad(y.sum(), x)[0]


def overwritten(x: Tensor) -> Tensor:
    """Compute SiLU in place and go on with what was overwritten."""
    y = x + 0
    F.silu(y, inplace=True)
    return y


def test_activations_written_out_or_in_place_follow_the_same_rule() -> None:
    x = torch.randn(3, 5).double()
    for function, written in (
        (F.silu, lambda x: x * torch.sigmoid(x)),
        (F.silu, overwritten),
        (F.silu, lambda x: (x + 0).mul_(x.sigmoid())),
        (F.relu, lambda x: (x + 0).relu_()),
        (torch.tanh, lambda x: (x + 0).tanh_()),
        (lambda x: x * (1.702 * x).sigmoid().detach(), lambda x: x * torch.sigmoid(1.702 * x)),
    ):
        expected = (function(x) / x).detach()
        torch.testing.assert_close(passed(function, x), expected)
        torch.testing.assert_close(passed(written, x), expected)
    # A product of two things of the image: half each, so that x · gradient is the product itself.
    swiglu = passed(lambda x: F.silu(x) * x.mul(3.0), x)
    torch.testing.assert_close(swiglu * x, F.silu(x) * 3 * x)


def test_rules_are_computed_in_float32_within_autocast() -> None:
    x, weight = torch.randn(2, 8, requires_grad=True), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16), LRPRules(nn.Identity(), "cp", 0.0, 0.5):
        y = F.linear(x, weight)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, gamma_rule(torch.ones(2, 3), x.detach(), weight, None, 0.5))


class Spoiled(nn.Module):
    """A small ViT with a function applied to the image first."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        """Build the ViT and store the function."""
        super().__init__()
        self.vit = small_vit()
        self.spoil = spoil

    def forward(self, image: Tensor) -> Tensor:
        """Apply the function, then classify."""
        return self.vit(self.spoil(image))


class Cube(torch.autograd.Function):
    """An operation no mode can see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute x³ with a derivative of 1."""
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Pass the gradient on."""
        return gradient


@pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")
@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (torch.exp, "Spoiled computes `exp`"),
        (lambda x: x.abs(), "Spoiled computes `abs`"),
        (lambda x: x * x.flatten(1).log_softmax(-1).view_as(x), "Spoiled computes `log_softmax`"),
        (lambda x: x**x, "Spoiled computes an exponent"),
        (lambda x: F.conv2d(x, x[:, :, :1, :1].mean(0).expand(3, 3, 1).unsqueeze(-1)), "computes weights"),
        (lambda x: F.batch_norm(x, None, None, training=True), "statistics of the batch"),
        (lambda x: F.batch_norm(x, None, None, None, None, True), "statistics of the batch"),
        (lambda x: (x + 0).exp_(), "`exp_`"),
        (Cube.apply, "`Cube`, a `torch.autograd.Function`"),
        (lambda x: x.detach(), "does not depend on the image"),
        (torch.sigmoid, "does not depend on the image"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(spoil: Callable[[Tensor], Tensor], what: str) -> None:
    model = Spoiled(spoil)
    with pytest.raises(UnsupportedModelError, match=what):
        AttnLRP(model).attribute(images(), target=0)
    assert AttnLRP(model.vit).attribute(images(), target=0).isfinite().all()


def test_refusals_name_the_layer() -> None:
    model = small_vit()
    model.blocks[1].mlp.act = nn.Softplus()
    with pytest.raises(UnsupportedModelError, match=r"`blocks.1.mlp.act` \(Softplus\) computes `softplus`"):
        AttnLRP(model).attribute(images(), target=0)


def test_a_model_without_attention_is_followed_too() -> None:
    model, inputs = without_biases(small_vit().double()), images().double()
    for block in model.blocks:
        block.attn.forward = lambda x, **_: x.flip(1)
    result = AttnLRP(model).attribute(inputs, target=0)
    torch.testing.assert_close(result.sum((1, 2, 3)), model(inputs)[:, 0].detach())


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_scripted_model_is_refused() -> None:
    model = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 3)), images(1))
    with pytest.raises(UnsupportedModelError, match=r"script|TracedModule"):
        AttnLRP(model).attribute(images(1), target=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("variant", "full"), ("conv_gamma", -0.1), ("linear_gamma", float("nan")), ("linear_gamma", True)],
)
def test_options_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{option}`"):
        AttnLRP(small_vit(), **{option: value})
