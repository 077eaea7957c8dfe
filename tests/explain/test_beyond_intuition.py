"""Tests of Beyond Intuition: both variants against loops in float64, limits, properties and errors."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.helpers.explicit_attention import (
    READOUTS,
    close,
    explicit,
    images,
    integrated,
    positive_mean,
    vit,
)
from tests.helpers.families import FAMILIES, sharpen, tiny
from vit_interactions.attention import UnsupportedModelError
from vit_interactions.explain.beyond_intuition import BeyondIntuition
from vit_interactions.explain.zero_map import ZeroMapWarning
from vit_interactions.functional.beyond_intuition import (
    fuse_by_token,
)

Matrix = list[list[float]]


def norm(vector: list[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in vector))


def by_head(attention: list[Matrix], gradient: list[Matrix]) -> Matrix:
    """Compute b_h = mean_ij |(A_hᵀ G_h)_ij|, normalized over heads, and Â = Σ_h b_h A_h."""
    tokens = range(len(attention[0]))
    scores = [
        sum(abs(sum(a[k][i] * g[k][j] for k in tokens)) for i in tokens for j in tokens) / len(tokens) ** 2
        for a, g in zip(attention, gradient, strict=True)
    ]
    return [
        [sum(s * a[i][j] for s, a in zip(scores, attention, strict=True)) / sum(scores) for j in tokens]
        for i in tokens
    ]


def by_token(attention: list[Matrix], value: Matrix, projection: Matrix, state: Matrix) -> Matrix:
    """Compute Â = (mean_h A_h) diag(‖V W_oᵀ‖ / ‖X‖), norms per key token, V concatenated over heads."""
    tokens = range(len(state))
    factor = [
        norm([sum(v * w for v, w in zip(value[j], row, strict=True)) for row in projection]) / norm(state[j])
        for j in tokens
    ]
    return [[sum(a[i][j] for a in attention) / len(attention) * factor[j] for j in tokens] for i in tokens]


def values(block: nn.Module, state: Tensor) -> Tensor:
    """Compute V of a block from its input, heads concatenated."""
    width = state.shape[-1]
    return (block.norm1(state) @ block.attn.qkv.weight[2 * width :].T) + block.attn.qkv.bias[2 * width :]


@pytest.mark.parametrize(("steps", "start"), [(1, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("variant", ["head", "token"])
@pytest.mark.parametrize("readout", READOUTS)
def test_it_is_the_equation_in_loops(readout: str, variant: Any, steps: int, start: int) -> None:
    """R ← I;  R ← R + Â_l R from block start-1 (0-based) on;  W = mean_h max(mean_k G, 0);  mean of rows of W · R."""
    build, read = READOUTS[readout]
    model, x, target = build(), images(), 4
    seen = explicit(model, x)
    gradients = seen.gradients(seen.output[:, target])
    weights = integrated(model, x, lambda output: output[:, target], steps)
    explainer = BeyondIntuition(model, variant=variant, steps=steps, start=start)
    result = explainer.patch_map(x, target=target).flatten(1)
    for b in range(2):
        tokens = range(seen.attentions[0].shape[-1])
        relevance = [[float(i == j) for j in tokens] for i in tokens]
        for layer in range(start - 1, 3):
            block, state = model.blocks[layer], seen.inputs[layer]
            attention = seen.attentions[layer][b].tolist()
            if variant == "head":
                fused = by_head(attention, gradients[layer][b].tolist())
            else:
                projection = block.attn.proj.weight.tolist()
                fused = by_token(attention, values(block, state)[b].tolist(), projection, state[b].tolist())
            relevance = [
                [relevance[i][j] + sum(fused[i][k] * relevance[k][j] for k in tokens) for j in tokens]
                for i in tokens
            ]
        expected = [
            sum(positive_mean(weights[b], i, j) * relevance[i][j] for i in read) / len(read) for j in tokens
        ][-9:]
        close(result[b], expected, 1e-7 * max(expected))  # the readout 1/9 is float32
        assert max(expected) > 1e-4


def test_the_variants_and_their_starts_differ() -> None:
    model, x = vit(), images()
    maps = [
        BeyondIntuition(model, variant=variant, steps=2, start=start).patch_map(x, target=1)
        for variant in ("head", "token")
        for start in (1, 2)
    ]
    for i, first in enumerate(maps):
        for second in maps[:i]:
            assert (first - second).abs().max() > 1e-2 * first.abs().max()


@pytest.mark.parametrize("variant", ["head", "token"])
def test_no_gradient_gives_a_map_of_zeros(variant: Any) -> None:
    model = vit()
    nn.init.zeros_(model.head.weight)
    with pytest.warns(ZeroMapWarning, match="BeyondIntuition found nothing in images 0, 1"):
        result = BeyondIntuition(model, variant=variant, steps=2, start=1).patch_map(images(), target=0)
    assert result.eq(0).all()


def test_values_that_go_nowhere_leave_the_identity_alone() -> None:
    # W_o = 0 in every block: Â = 0, R = I, and the class token reads no patch.
    model = vit()
    for block in model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
    with pytest.warns(ZeroMapWarning, match="BeyondIntuition found nothing in images 0, 1"):
        result = BeyondIntuition(model, variant="token", steps=2, start=1).patch_map(images(), target=0)
    assert result.eq(0).all()


@pytest.mark.parametrize(
    "name", ["vit", "distilled", "dinov2_reg4", "dinov3", "eva02", "beit", "siglip", "hybrid"]
)
def test_the_token_wise_variant_reads_the_families(name: str) -> None:
    family = FAMILIES[name]
    result = BeyondIntuition(family.build(), "token", steps=2, start=1).patch_map(family.images(), target=1)
    assert result.shape == (2, *family.grid)
    assert result.flatten(1).std(1).min() > 0


def test_the_token_wise_factor_is_of_the_layers_own_projection_and_input(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = vit(init_values=1.0), images()
    seen = explicit(model, x)
    given: list[tuple[Tensor, Tensor]] = []

    def spy(attention: Tensor, value: Tensor, projection: Tensor, inputs: Tensor) -> Tensor:
        given.append((projection, inputs))
        return fuse_by_token(attention, value, projection, inputs)

    monkeypatch.setattr("vit_interactions.explain.beyond_intuition.fuse_by_token", spy)
    BeyondIntuition(model, "token", steps=1, start=2).patch_map(x, target=0)
    assert len(given) == 2
    for layer, (projection, inputs) in zip((2, 1), given, strict=True):
        assert projection is model.blocks[layer].attn.proj.weight
        torch.testing.assert_close(inputs, seen.inputs[layer])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (FAMILIES["parallel_scaling"].build, "`blocks.1` does not pass its attention's output directly to"),
        (
            lambda: tiny("vit_relpos_base_patch16_rpn_224", img_size=64),
            r"`blocks.1`, which contains `blocks.1.attn`, does not normalize its input with `norm1`",
        ),
        (
            lambda: tiny("vit_tiny_patch16_224", img_size=64, scale_attn_norm=True),
            r"`blocks.1.attn` does not pass its attention's output directly to a linear layer named `proj`",
        ),
    ],
    ids=["parallel", "post-norm", "normed attention"],
)
def test_the_token_wise_variant_refuses_other_blocks_by_name(build: Any, message: str) -> None:
    model, x = build(), torch.randn(2, 3, 64, 64)
    with pytest.raises(UnsupportedModelError, match=message) as refusal:
        BeyondIntuition(model, variant="token", steps=1, start=1).patch_map(x, target=0)
    assert 'Use `variant="head"`' in str(refusal.value)
    assert BeyondIntuition(model, variant="head", steps=1, start=1).patch_map(x, target=0).isfinite().all()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_blocks_that_share_their_weights_are_not_mixed_up() -> None:
    model = vit()
    model.blocks[2] = model.blocks[1]
    with pytest.raises(UnsupportedModelError, match=r"`blocks.1.attn` does not pass"):
        BeyondIntuition(model, variant="token", steps=1, start=1).patch_map(images(), target=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "tokens"}, "`variant` must be one of 'head', 'token', got 'tokens'"),
        ({"steps": 0}, "`steps`, the points of the path, must be an integer >= 1, got 0"),
        ({"start": 0}, "`start` must be >= 1, got 0"),
    ],
)
def test_options_outside_their_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeyondIntuition(vit(), **options)


@pytest.mark.parametrize(("variant", "start"), [("head", 4), ("token", 6)])
def test_defaults_and_models_of_too_few_blocks(variant: Any, start: int) -> None:
    assert BeyondIntuition(vit(), variant=variant).steps == 20
    with pytest.raises(ValueError, match=f"`start` must be <= 3, the model's blocks, got {start}"):
        BeyondIntuition(vit(), variant=variant, start=start).patch_map(images(), target=0)
    for depth, own in ((3, 3), (7, start)):
        model, x = vit(depth=depth), images()
        found, expected = (
            BeyondIntuition(model, variant=variant, steps=2, start=given).patch_map(x, target=0)
            for given in (None, own)
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("variant", ["head", "token"])
def test_passes_as_declared(variant: Any) -> None:
    model = sharpen(timm.create_model("test_vit", img_size=32)).eval()
    explainer = BeyondIntuition(model, variant=variant)
    passed: list[int] = []
    model.register_forward_hook(lambda module, given, output: passed.append(len(given[0])))
    explainer.patch_map(torch.randn(1, 3, 32, 32), target=9)
    assert sum(passed) - 1 == explainer.forwards == explainer.backwards == 20
    assert explainer.class_specific
