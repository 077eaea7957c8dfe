"""Test that unsupported models raise errors that name the module, the reason and the remedy, and get no map."""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from tests.helpers.families import tiny
from tests.helpers.twins import Outer
from vit_interactions import (
    EXPLAINERS,
    AttentionRollout,
    Explainer,
    IndiscriminativePatches,
    InteractionUncertainty,
    RawAttention,
    ResponsiveFieldSize,
    ResponsiveFieldTendency,
    UnsupportedModelError,
    interaction_curve,
    probe,
    record_attention,
    responsive_field,
    token_layout,
)
from vit_interactions.functional import uncertainty

# Methods without a target; `test_conformance.py` checks that the others raise for the same models.
FORWARD = {name: method for name, method in EXPLAINERS.items() if method.forwards and not method.class_specific}

SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}
STAGES: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "img_size": 64}


def sam(**options: Any) -> nn.Module:
    """Build a small image encoder of Segment Anything."""
    return VisionTransformerSAM(
        img_size=64, embed_dim=32, depth=2, num_heads=2, num_classes=5, neck_chans=8, use_rel_pos=True, **options
    )


def mvit() -> nn.Module:
    """Build a small MViTv2."""
    return MultiScaleVit(MultiScaleVitCfg(depths=(1, 1), embed_dim=(16, 32), num_heads=(1, 2)), img_size=(64, 64))


def with_attention(attention: nn.Module) -> nn.Module:
    """Build a plain ViT whose second block uses the given attention."""
    model = tiny("vit_tiny_patch16_224", img_size=64)
    model.blocks[1].attn = attention
    return model


class DifferenceInOneLine(Attention):
    """Differential attention written as one statement."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Subtract one attention from another."""
        query, key, value = self.qkv(x).reshape(len(x), -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
        attend = F.scaled_dot_product_attention
        mixed = attend(query, key, value) - 0.5 * attend(query.flip(-2), key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class ExplicitSoftmax(Attention):
    """Attention that no call shows."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend explicitly."""
        query, key, value = self.qkv(x).reshape(len(x), -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
        return self.proj(((query @ key.mT / 4).softmax(-1) @ value).transpose(1, 2).flatten(2))


WINDOWS = r"attends within windows or groups, not over the whole image: .*, expected \(1, heads, .*\. Use a ViT"
ITEMS = r"attends among \d+ items, but the first layer has \d+ tokens.*pairs of patches\. Use a ViT"
SOFTMAX = r"computes its attention by a softmax in a form.*must multiply the values.*Use a ViT in which"
POOLED = r"attends from \d+ of the tokens to \d+ .*Use a ViT in which all tokens attend to all"
UNPLACED = r"the patches of \w+ cannot be placed: .*Give a Vision Transformer whose tokens are a regular"
NO_ATTENTION = r"made no call of scaled_dot_product_attention.*Give a Vision Transformer"
SEVERAL = r"combines 2 attention maps into one \(differential attention.*one softmax per layer"


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Delay building a model."""
    return functools.partial(timm.create_model, name, **options)


# name: (builder, side of the image, pattern of the error)
UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "swin": (timm_model("swin_tiny_patch4_window7_224", **STAGES), 64, rf"`layers\.0\.blocks\.0\.attn` {WINDOWS}"),
    "swin v2": (
        timm_model("swinv2_tiny_window8_256", **STAGES, window_size=4),
        64,
        rf"`layers\.0\.blocks\.0\.attn` {WINDOWS}",
    ),
    "xcit": (
        timm_model("xcit_nano_12_p16_224", depth=1, embed_dim=32, num_heads=2),
        224,
        rf"`cls_attn_blocks\.0\.attn` {POOLED}",
    ),
    "mvit v2": (mvit, 64, rf"`stages\.0\.blocks\.0\.attn` {POOLED}"),
    "cait": (timm_model("cait_xxs24_224", **SMALL), 64, rf"`blocks\.0\.attn` {SOFTMAX}"),
    "hiera": (
        timm_model("hiera_tiny_224", embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)),
        224,
        rf"`blocks\.0\.attn` {WINDOWS}",
    ),
    "sam, windows": (
        functools.partial(sam, window_size=2, global_attn_indexes=(1,)),
        64,
        rf"`blocks\.0\.attn` {WINDOWS}",
    ),
    "convit": (timm_model("convit_tiny", **SMALL, local_up_to_layer=1), 64, rf"`blocks\.\d\.attn` {SOFTMAX}"),
    "levit": (timm_model("levit_128s"), 224, rf"`stages\.1\.downsample\.attn_downsample` {POOLED}"),
    "tnt": (
        timm_model(
            "tnt_s_patch16_224",
            depth=1,
            embed_dim=32,
            inner_dim=16,
            num_heads_inner=2,
            num_heads_outer=2,
            img_size=64,
        ),
        64,
        rf"`blocks\.0\.attn_in` {WINDOWS}",
    ),
    "pvt v2": (timm_model("pvt_v2_b0", depths=(1, 1, 1, 1)), 64, rf"`stages\.0\.blocks\.0\.attn` {POOLED}"),
    "maxvit": (timm_model("test_maxvit"), 160, rf"`stages\.0\.blocks\.0\.attn_block\.attn` {WINDOWS}"),
    "differential": (timm_model("vit_dwee_patch16_reg1_gap_256", **SMALL), 64, rf"`blocks\.0\.attn` {SEVERAL}"),
    "differential in one line": (
        lambda: with_attention(DifferenceInOneLine(32, 2, qkv_bias=True)),
        64,
        rf"`blocks\.1\.attn` {SEVERAL}",
    ),
    "resnet": (timm_model("resnet18"), 64, f"ResNet {NO_ATTENTION}"),
}


@functools.cache
def unsupported(name: str) -> nn.Module:
    """Build a model once."""
    return UNSUPPORTED[name][0]().eval()


@pytest.mark.parametrize("explainer", FORWARD.values(), ids=FORWARD)
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_models_are_refused_by_name_with_reason_and_remedy(
    name: str, explainer: type[Explainer]
) -> None:
    _, side, says = UNSUPPORTED[name]
    model = unsupported(name)
    with pytest.raises(UnsupportedModelError, match=says):
        explainer(model).attribute(torch.randn(2, 3, side, side))
    assert not model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_windows_are_refused_even_where_they_make_as_many_groups_as_images() -> None:
    # 1 image of 4 windows, 2 heads: the query's batch is 4, whatever the batch of images.
    for batch in (1, 4):
        with pytest.raises(UnsupportedModelError, match=WINDOWS):
            AttentionRollout(unsupported("sam, windows")).patch_map(torch.randn(batch, 3, 64, 64))


def readout_free(model: nn.Module, twin: nn.Module, images: Tensor) -> None:
    """Check that U equals the twin's, and that methods that read from the output raise."""
    twin_u, own_u = (InteractionUncertainty(m).patch_map(images) for m in (twin, model))
    assert torch.allclose(own_u, twin_u, atol=1e-6)
    with pytest.raises(
        UnsupportedModelError, match=r"do not have fixed weights in the output.*such as U or AttnLRP"
    ):
        AttentionRollout(model).patch_map(images)


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_pooling_by_maximum_leaves_the_methods_without_readout(pool: str) -> None:
    options: dict[str, Any] = {"img_size": 64, "class_token": False}
    model = tiny("vit_tiny_patch16_224", **options, global_pool=pool)
    twin = tiny("vit_tiny_patch16_224", **options, global_pool="avg")
    twin.load_state_dict(model.state_dict())
    readout_free(model, twin, torch.randn(2, 3, 64, 64))


def test_a_refining_pool_is_one_more_layer() -> None:
    model = tiny("vit_base_patch16_siglip_224", img_size=64, global_pool="prr")
    seen = probe(model, (64, 64))
    assert seen.structure is not None
    assert (len(seen.structure.layers), seen.layout.readout) == (3, "avg")


def test_sam_with_global_attention_has_u_but_no_readout() -> None:
    # Windows as large as the image are global attention too.
    model, twin = sam(window_size=0), sam(window_size=4)
    twin.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(UnsupportedModelError, match="do not have fixed weights in the output"):
        AttentionRollout(model.eval()).patch_map(images)
    readout_free(model, twin.eval(), images)
    assert token_layout(model, (64, 64)).grid == (4, 4)


def test_one_vit_is_found_inside_a_module() -> None:
    vit = tiny("vit_tiny_patch16_224", img_size=64)
    assert token_layout(nn.Sequential(nn.Identity(), vit), (64, 64)) == token_layout(vit, (64, 64))
    with pytest.raises(ValueError, match=r"images that ModuleList takes, .* NotImplementedError"):
        token_layout(nn.ModuleList([vit]), (64, 64))


@pytest.mark.parametrize(
    ("name", "options", "readout"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64}, "token"),
        ("vit_relpos_small_patch16_224", {"img_size": 64}, "avg"),
        ("naflexvit_base_patch16_gap", {}, "avg"),
        ("naflexvit_base_patch16_gap", {"class_token": True}, "token"),
    ],
)
def test_models_without_pooling_are_read_from_the_class_token_where_there_is_one(
    name: str, options: dict[str, Any], readout: str
) -> None:
    model = tiny(name, **options, global_pool="", num_classes=0)
    assert token_layout(model, (64, 64)).readout == readout


TAKES = r"`inputs` must be images that VisionTransformer takes, got "
EXPECTED_SHAPE = r"`inputs` must have shape \(batch, channels, height, width\), got "
BAD_INPUTS: dict[str, tuple[Any, type[Exception], str]] = {
    "one image without batch": (torch.zeros(3, 64, 64), ValueError, EXPECTED_SHAPE + r"\(3, 64, 64\)"),
    "empty batch": (torch.zeros(0, 3, 64, 64), ValueError, EXPECTED_SHAPE + r"\(0, 3, 64, 64\)"),
    "video": (torch.zeros(1, 3, 2, 64, 64), ValueError, EXPECTED_SHAPE + r"\(1, 3, 2, 64, 64\)"),
    "channels": (
        torch.zeros(1, 1, 64, 64),
        ValueError,
        TAKES + r"1 x 64 x 64 float32 on cpu, .* expected input\[1, 1, 64, 64\] to have 3 channels",
    ),
    "channels last": (
        torch.zeros(1, 64, 64, 3),
        ValueError,
        TAKES + r"64 x 64 x 3 float32 on cpu, .*Resize or convert",
    ),
    "size": (torch.zeros(1, 3, 96, 64), ValueError, TAKES + r"3 x 96 x 64 .* match model \(64\)\. Resize"),
    "numpy": (np.zeros((1, 3, 64, 64)), TypeError, r"`inputs` must be a tensor, got ndarray"),
    "list": ([torch.zeros(1, 3, 64, 64)], TypeError, r"`inputs` must be a tensor, got list"),
    "none": (None, TypeError, r"`inputs` must be a tensor, got NoneType"),
    "two inputs": ((torch.zeros(1, 3, 64, 64),) * 2, ValueError, r"one batch of images, got a tuple of 2"),
    "no input": ((), ValueError, r"one batch of images, got a tuple of 0"),
    "float64": (
        torch.zeros(1, 3, 64, 64).double(),
        TypeError,
        r"must be torch\.float32 .*, got torch\.float64",
    ),
    "uint8": (torch.zeros(1, 3, 64, 64).byte(), TypeError, r"must be torch\.float32 .*, got torch\.uint8"),
    "nan": (
        torch.full((1, 3, 64, 64), torch.nan),
        ValueError,
        r"layer 0 \(`blocks\.0\.attn`\) is not finite: `inputs`",
    ),
    "inf": (
        torch.full((1, 3, 64, 64), torch.inf),
        ValueError,
        r"layer 0 \(`blocks\.0\.attn`\) is not finite: `inputs`",
    ),
}


@functools.cache
def small_vit() -> nn.Module:
    """Return the ViT for tests of bad inputs."""
    return tiny("vit_tiny_patch16_224", img_size=64)


@pytest.mark.parametrize("explainer", FORWARD.values(), ids=FORWARD)
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_are_refused_with_what_was_expected_and_what_came(
    name: str, explainer: type[Explainer]
) -> None:
    inputs, error, says = BAD_INPUTS[name]
    for method in ("attribute", "patch_map"):
        with pytest.raises(error, match=says):
            getattr(explainer(small_vit()), method)(inputs)


def test_one_bad_image_spoils_its_batch() -> None:
    images = torch.randn(3, 3, 64, 64)
    images[1, 0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="is not finite"):
        InteractionUncertainty(small_vit()).uncertainty(images)


@pytest.mark.parametrize("explainer", FORWARD.values(), ids=FORWARD)
def test_weights_that_are_not_finite_are_refused_by_layer(explainer: type[Explainer]) -> None:
    model = tiny("vit_tiny_patch16_224", img_size=64)
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight[40, 3] = torch.nan
    with pytest.raises(ValueError, match=r"layer 1 \(`blocks\.1\.attn`\) is not finite: .* weights hold NaN"):
        explainer(model).attribute(torch.randn(1, 3, 64, 64))


def test_half_precision_that_overflows_is_refused() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=64).half()
    with torch.no_grad():
        model.blocks[0].attn.proj.bias.fill_(6e4)
        model.blocks[0].mlp.fc2.bias.fill_(6e4)  # float16 ends at 65504
    with pytest.raises(ValueError, match=r"layer 1 .* is not finite: .* or half precision overflowed"):
        RawAttention(model).patch_map(torch.randn(1, 3, 64, 64).half())


NOT_A_CLASS = r"`target` must be a class index, or one per example .*, got "
BAD_TARGETS: dict[str, tuple[Any, type[Exception], str]] = {
    "bool": (True, TypeError, NOT_A_CLASS + "True"),
    "numpy bool": (np.bool_(True), TypeError, NOT_A_CLASS),
    "float": (1.0, TypeError, NOT_A_CLASS + r"1\.0"),
    "string": ("cat", TypeError, NOT_A_CLASS + "'cat'"),
    "float tensor": (torch.tensor([1.0, 2.0]), TypeError, NOT_A_CLASS + r"torch\.float32 \(2,\)"),
    "bool tensor": (torch.tensor([True, False]), TypeError, NOT_A_CLASS + r"torch\.bool \(2,\)"),
    "column": (torch.tensor([[1], [2]]), TypeError, NOT_A_CLASS + r"torch\.int64 \(2, 1\)"),
    "array": (np.array([1, 2]), TypeError, NOT_A_CLASS + r"array\(\[1, 2\]\)"),
    "list of bools": ([True, False], TypeError, NOT_A_CLASS + "True"),
    "pair": ((1, 2), TypeError, NOT_A_CLASS + r"\(1, 2\)"),
    "list of pairs": ([(1, 2), (2, 1)], TypeError, NOT_A_CLASS + r"\(1, 2\)"),
    "too many": ([1, 2, 3], ValueError, r"`target` must be one class or 2, one per example, got 3"),
    "too few in a list": ([1], ValueError, r"`target` must be one class or 2, one per example, got 1"),
    "too many in a tensor": (torch.tensor([1, 2, 3]), ValueError, r"one class or 2, one per example, got 3"),
    "none in a list": ([], ValueError, r"one class or 2, one per example, got 0"),
    "too large": (5, IndexError, r"`target` must lie in \[-5, 4\] for 5 classes, got 5"),
    "too small": (-6, IndexError, r"`target` must lie in \[-5, 4\] for 5 classes, got -6"),
    "one too large": ([0, 7], IndexError, r"`target` must lie in \[-5, 4\] for 5 classes, got 7"),
}


@pytest.mark.parametrize("explainer", FORWARD.values(), ids=FORWARD)
@pytest.mark.parametrize("name", BAD_TARGETS)
def test_bad_targets_are_refused(name: str, explainer: type[Explainer]) -> None:
    target, error, says = BAD_TARGETS[name]
    with pytest.raises(error, match=says):
        explainer(small_vit()).attribute(torch.randn(2, 3, 64, 64), target=target)


def test_a_target_for_a_model_without_classes_is_refused() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=64, num_classes=0, global_pool="")
    with pytest.raises(ValueError, match=r"neither \(batch, classes\) nor \(batch,\), got shape \(1, 17, 32\)"):
        RawAttention(model).attribute(torch.randn(1, 3, 64, 64), target=1)


@pytest.mark.parametrize("patch", [(4, 0), (0, 4), (-1, 0), (0, -1), (99, 99)])
def test_a_patch_outside_the_grid_is_refused(patch: tuple[int, int]) -> None:
    shown = re.escape(str(patch))
    with pytest.raises(ValueError, match=rf"row in \[0, 3\], col in \[0, 3\], got {shown}"):
        InteractionUncertainty(small_vit()).attribute(torch.randn(1, 3, 64, 64), patch=patch)


@pytest.mark.parametrize("patch", [(1,), (1, 2, 3), 5, (1.0, 2), (True, 2), "ab"])
def test_what_is_no_patch_is_refused(patch: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`patch` must be (a tuple \(row, col\) of two ints|an int), (but )?got "
    ):
        InteractionUncertainty(small_vit()).patch_map(torch.randn(1, 3, 64, 64), patch=patch)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True])
def test_shares_outside_their_range_are_refused_before_the_model_runs(value: float) -> None:
    model, passes = tiny("vit_tiny_patch16_224", img_size=64), []
    model.register_forward_hook(lambda *_: passes.append(1))
    for explainer in (ResponsiveFieldSize, ResponsiveFieldTendency):
        for name in ("alpha", "beta"):
            with pytest.raises(ValueError, match=rf"`{name}` must lie in \[0, 1\], got {value}"):
                explainer(model, **{name: value})
    with pytest.raises(ValueError, match=rf"`beta` must lie in \[0, 1\], got {value}"):
        IndiscriminativePatches(model).dropped(torch.randn(1, 3, 64, 64), beta=value)
    with pytest.raises(ValueError, match=rf"`alpha` must lie in \[0, 1\], got {value}"):
        interaction_curve(model, torch.randn(1, 3, 64, 64), alphas=(0.1, value))
    with pytest.raises(ValueError, match=rf"`beta` must lie in \[0, 1\], got {value}"):
        interaction_curve(model, torch.randn(1, 3, 64, 64), beta=value)
    assert not passes


def test_an_interaction_curve_over_several_sizes_is_refused() -> None:
    model = tiny("vit_tiny_patch16_224", dynamic_img_size=True)
    batches = [torch.randn(1, 3, 32, 64), torch.randn(1, 3, 64, 32)]
    with pytest.raises(ValueError, match=r"must be of one size, got grids of \[\(2, 4\), \(4, 2\)\] patches"):
        interaction_curve(model, batches)


def test_options_outside_their_range_are_refused() -> None:
    model, images = small_vit(), torch.randn(1, 3, 64, 64)
    for explainer in (AttentionRollout, RawAttention):
        with pytest.raises(ValueError, match="`fusion` must be one of 'mean', 'max', 'min', got 'sum'"):
            explainer(model, fusion="sum")
    with pytest.raises(ValueError, match=r"`discard` must lie in \[0, 1\], got 2"):
        AttentionRollout(model, discard=2)
    with pytest.raises(ValueError, match=r"`alpha` must be finite and >= 0, got -1"):
        AttentionRollout(model, alpha=-1)
    with pytest.raises(ValueError, match="`start_layer` must be >= 0, got -1"):
        AttentionRollout(model, start_layer=-1)
    with pytest.raises(ValueError, match="`start_layer` must be < 2, the model's layers, got 2"):
        AttentionRollout(model, start_layer=2).patch_map(images)
    for layer in (2, -3, 50, -50):
        with pytest.raises(IndexError, match=rf"`layer` must lie in \[-2, 1\] for this model, got {layer}"):
            RawAttention(model, layer=layer).patch_map(images)
    with pytest.raises(ValueError, match="`alphas` must contain at least one fraction, got none"):
        interaction_curve(model, images, alphas=())
    with pytest.raises(ValueError, match="`images` must contain at least one batch, got none"):
        interaction_curve(model, [])


@pytest.mark.parametrize("explainer", FORWARD.values(), ids=FORWARD)
def test_what_is_no_model_is_refused(explainer: type[Explainer]) -> None:
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module, got str"):
        explainer("vit_tiny_patch16_224")  # type: ignore[arg-type]


def test_models_with_a_linear_embedding_check_their_input_too() -> None:
    model = tiny("naflexvit_base_patch16_gap")
    explainer = AttentionRollout(model)
    with pytest.raises(ValueError, match=r"images that NaFlexVit takes, got 4 x 64 x 64 .*cannot be multiplied"):
        explainer.patch_map(torch.zeros(1, 4, 64, 64))
    with pytest.raises(ValueError, match=r"got 3 x 70 x 64 .*invalid for input of size"):
        explainer.patch_map(torch.zeros(1, 3, 70, 64))
    with pytest.raises(TypeError, match=r"must be torch\.float32 like the model, got torch\.float64"):
        explainer.patch_map(torch.zeros(1, 3, 64, 64).double())


def test_a_dynamic_model_says_what_sizes_it_takes() -> None:
    model = tiny("vit_tiny_patch16_224", dynamic_img_size=True)
    with pytest.raises(ValueError, match=r"got 3 x 60 x 96 .*divisible by patch size \(16\)\. Resize"):
        AttentionRollout(model).patch_map(torch.zeros(1, 3, 60, 96))


def test_images_smaller_than_a_patch_are_refused() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=64)
    model.patch_embed.img_size = None  # a convolution that takes any size
    with pytest.raises(ValueError, match=r"got 3 x 8 x 64 .*Kernel size can't be greater"):
        token_layout(model, (8, 64))


def fresh_vit() -> nn.Module:
    """Build a small ViT for a test that changes it."""
    return tiny("vit_tiny_patch16_224", img_size=64)


class TwoViews(nn.Module):
    """Test-time augmentation: one output from two passes of the ViT."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.vit(images) + self.vit(images.flip(-1))


def test_a_model_that_runs_its_vit_twice_is_refused() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"TwoViews runs several passes over the image.*Explain one of them"
    ):
        AttentionRollout(TwoViews(fresh_vit())).patch_map(torch.randn(1, 3, 64, 64))


def test_a_layer_used_twice_is_two_layers() -> None:
    model = fresh_vit()
    model.blocks[1] = model.blocks[0]
    assert AttentionRollout(model).patch_map(torch.randn(1, 3, 64, 64)).shape == (1, 4, 4)


def test_a_model_that_resizes_its_images_is_explained_where_its_patches_lie() -> None:
    vit = tiny("vit_tiny_patch16_224", dynamic_img_size=True)
    images = torch.randn(1, 3, 32, 128)
    resized = Outer(vit, lambda x: F.interpolate(x, (64, 64)))
    layout = token_layout(resized, (32, 128))
    assert (layout.grid, layout.extent) == ((4, 4), (32, 128))
    expected = AttentionRollout(vit).patch_map(F.interpolate(images, (64, 64)))
    assert torch.allclose(AttentionRollout(resized).patch_map(images), expected)
    turned = AttentionRollout(Outer(vit, lambda x: x.transpose(-1, -2))).patch_map(images)
    assert torch.allclose(turned.mT, AttentionRollout(vit).patch_map(images.mT))
    normalized = Outer(vit, lambda x: (x - 0.5) / 0.5)
    expected = AttentionRollout(vit).patch_map((images - 0.5) / 0.5)
    assert torch.allclose(AttentionRollout(normalized).patch_map(images), expected)


class OddAttention(nn.Module):
    """An attention module in the place of a block's, with one step done differently."""

    def __init__(self, attention: Any, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = attention, kind

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        batch, tokens, width = x.shape
        inner: Any = self.inner
        q, k, v = inner.qkv(x).reshape(batch, tokens, 3, inner.num_heads, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "fewer keys":
            z = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, ::2], v[:, :, ::2])
        elif self.kind == "special softmax":
            z = torch.special.softmax(q @ k.transpose(-2, -1) * inner.scale, -1) @ v
        else:
            weights = (q @ k.transpose(-2, -1) * inner.scale).exp()
            z = weights / weights.sum(-1, keepdim=True) @ v
        return inner.proj(z.transpose(1, 2).reshape(batch, tokens, width))


@pytest.mark.parametrize("kind", ["fewer keys", "exp and sum"])
@pytest.mark.parametrize("block", [0, 1])
def test_one_block_that_attends_in_another_way_is_not_left_out(kind: str, block: int) -> None:
    model = fresh_vit()
    model.blocks[block].attn = OddAttention(model.blocks[block].attn, kind)
    reason = {
        "fewer keys": rf"`blocks\.{block}\.attn` attends from 17 of the tokens to 9",
        "exp and sum": "exchange information|not mixed before `blocks.1.attn`",
    }
    with pytest.raises(UnsupportedModelError, match=reason[kind]):
        AttentionRollout(model).patch_map(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("kind", ["special softmax", "method"])
@pytest.mark.parametrize("block", [0, 1])
def test_a_block_with_an_explicit_softmax_is_read_as_its_fused_twin(kind: str, block: int) -> None:
    twin, images = fresh_vit(), torch.randn(2, 3, 64, 64)
    model = fresh_vit()
    odd = OddAttention(model.blocks[block].attn, kind)
    if kind == "method":
        odd = ExplicitSoftmax(32, 2, qkv_bias=True)
        odd.load_state_dict(twin.blocks[block].attn.state_dict())
    model.blocks[block].attn = odd
    for explainer in (AttentionRollout, InteractionUncertainty):
        assert torch.allclose(
            explainer(model.eval()).patch_map(images), explainer(twin).patch_map(images), atol=1e-6
        )


def test_a_last_block_of_the_class_token_only_is_no_pooling_head() -> None:
    model = fresh_vit()

    class ClassOnly(OddAttention):
        def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
            inner: Any = self.inner
            q, k, v = inner.qkv(x).reshape(*x.shape[:2], 3, inner.num_heads, -1).permute(2, 0, 3, 1, 4)
            z = torch.nn.functional.scaled_dot_product_attention(q[:, :, :1], k, v)
            return inner.proj(z.transpose(1, 2).flatten(2)).expand_as(x)

    model.blocks[-1].attn = ClassOnly(model.blocks[-1].attn, "class only")
    with pytest.raises(UnsupportedModelError, match=r"`blocks\.1\.attn` attends from 1 of the tokens to 17"):
        RawAttention(model).patch_map(torch.randn(1, 3, 64, 64))


def test_tokens_dropped_in_training_have_no_layout() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=64, patch_drop_rate=0.5).train()
    with torch.no_grad(), record_attention(model) as record:
        model(torch.randn(1, 3, 64, 64))
    with pytest.raises(UnsupportedModelError, match=r"attends among 9 tokens, but an image of .* has 17"):
        record.layout  # noqa: B018


def test_an_auxiliary_convolution_does_not_decide_the_channels() -> None:
    outer = Outer(fresh_vit(), lambda x: x)
    outer.auxiliary = nn.Conv2d(32, 4, 1)
    outer._modules = {name: outer._modules[name] for name in ("auxiliary", "vit")}
    assert AttentionRollout(outer).patch_map(torch.randn(1, 3, 64, 64)).shape == (1, 4, 4)


def test_random_numbers_drawn_in_evaluation_leave_the_generator_alone() -> None:
    noisy = Outer(fresh_vit(), lambda x: x + torch.randn_like(x))
    state = torch.get_rng_state()
    AttentionRollout(noisy).patch_map(torch.randn(1, 3, 64, 64, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResponsiveFieldSize(fresh_vit(), alpha="0.1"), r"`alpha` must lie in \[0, 1\], got '0.1'"),
        (
            lambda: AttentionRollout(fresh_vit(), alpha=float("inf")),
            "`alpha` must be finite and >= 0, got inf",
        ),
        (lambda: AttentionRollout(fresh_vit(), start_layer=1.5), "`start_layer` must be an int, got 1.5"),
        (lambda: RawAttention(fresh_vit(), layer=0.5), "`layer` must be an int, got 0.5"),
        (lambda: responsive_field(torch.rand(1, 4, 4), (-2, -2)), r"`grid` must be a pair of ints > 0, got"),
        (lambda: responsive_field(torch.rand(1, 4, 4), (2, 2, 1)), r"`grid` must be a pair of ints > 0, got"),
        (lambda: token_layout(fresh_vit(), 64), "`image_size` must be a pair of ints > 0, got 64"),
        (lambda: uncertainty(torch.rand(1, 1, 2, 4, 4), prefix=-1), "`prefix` must be >= 0, got -1"),
        (
            lambda: uncertainty(torch.rand(1, 1, 2, 4, 4), prefix=9),
            "`prefix` must be < 4, the number of tokens, got 9",
        ),
        (lambda: uncertainty(torch.full((1, 1, 2, 4, 4), torch.nan)), "must be finite floating-point numbers"),
        (lambda: uncertainty(torch.ones(1, 1, 2, 4, 4).int()), "must be finite floating-point numbers"),
    ],
)
def test_arguments_of_another_kind_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
