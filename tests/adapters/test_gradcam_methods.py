"""Tests of explainers as CAMs of pytorch-grad-cam, and of its CAMs as explainers, without its known leaks."""

import ast
import copy
import inspect
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import timm
import torch
import transformers as hf
import vit_interactions_adapters
from pytorch_grad_cam.metrics.arcc import ARCC, Coherency
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence
from pytorch_grad_cam.metrics.road import ROADCombined, ROADMostRelevantFirst
from pytorch_grad_cam.utils.image import scale_cam_image, show_cam_on_image
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    RawScoresOutputTarget,
)
from torch import Tensor, nn
from vit_interactions_adapters.captum_methods import CaptumLayerGradCam, CaptumSaliency
from vit_interactions_adapters.gradcam import as_gradcam
from vit_interactions_adapters.gradcam_methods import (
    GRADCAM_METHODS,
    NOT_OFFERED,
    Eigencam,
    Gradcam,
    GradcamMethod,
    Hirescam,
    KpcaCam,
    why_not_offered,
)
from vit_interactions_adapters.methods import METHODS
from vit_interactions_adapters.token_grid import reshape_transform

import vit_interactions as vi
from tests.helpers import references
from tests.helpers.explaining import (
    assert_near,
    assert_same_state,
    differs,
    images,
    lived_in_model,
    small_vit,
    state_of,
)
from tests.helpers.families import FAMILIES, Family, sharpen, tiny
from tests.helpers.planted import planted_image, planted_map, planted_model
from tests.helpers.torchvision_models import vit as torchvision_vit
from vit_interactions.explain.registry import all_methods, find_method

every_cam = pytest.mark.parametrize("method", GRADCAM_METHODS.values(), ids=GRADCAM_METHODS)
# One family per readout, prefix and shape of the grid.
SOME = ["vit", "distilled", "dinov2_reg4", "dinov3", "siglip", "test_vit3", "non_square", "padded", "hybrid"]
some_families = pytest.mark.parametrize("name", SOME)


def unit(values: Tensor) -> Tensor:
    """Scale each image from its smallest to its largest value to [0, 1], in a loop."""
    return torch.stack([(v - v.min()) / (v.max() - v.min()) for v in values.double()])


# --- explainers as CAMs ---


@pytest.mark.parametrize(
    "explainer", [vi.AttentionRollout, vi.GMAR, vi.ResponsiveFieldSize, Gradcam, CaptumSaliency]
)
@pytest.mark.parametrize("name", ["vit", "dinov3", "non_square", "padded"])
def test_a_cam_is_the_resized_map_scaled_to_1_for_the_most_relevant(
    explainer: type[vi.Explainer], name: str
) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.images()
    with as_gradcam(explainer(model)) as cam:
        result = cam(input_tensor=inputs, targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    assert isinstance(cam, pytorch_grad_cam.base_cam.BaseCAM)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    assert result.shape == (2, *family.size)
    patch_map = explainer(model).patch_map(inputs, [1, 3])
    height, width = family.size
    for image, values in zip(result, patch_map, strict=True):
        resized = references.bilinear(values.tolist(), family.extent)[:height, :width]
        expected = unit(resized[None])[0] if explainer.more_is_relevant else 1 - unit(resized[None])[0]
        np.testing.assert_allclose(image, expected, atol=1e-5)
        assert image.min() == 0.0
        assert image.max() == 1.0


def test_grad_cams_targets_work() -> None:
    model, inputs = small_vit(), images(3)
    cam = as_gradcam(vi.GMAR(model))
    predicted = model(inputs).argmax(1).tolist()
    by_class = cam(inputs, [ClassifierOutputTarget(c) for c in predicted])
    np.testing.assert_array_equal(cam(inputs), by_class)
    np.testing.assert_array_equal(cam(inputs, None), by_class)
    others = [ClassifierOutputTarget((c + 1) % 5) for c in predicted]
    assert np.abs(cam(inputs, others) - by_class).max() > 0.01
    mixed = cam(inputs, [others[0], *(ClassifierOutputTarget(c) for c in predicted[1:])])
    np.testing.assert_allclose(mixed[0], cam(inputs, others)[0], atol=1e-6)
    np.testing.assert_allclose(mixed[1:], by_class[1:], atol=1e-6)
    softmax = cam(inputs, [ClassifierOutputSoftmaxTarget(2)] * 3)
    expected = vi.GMAR(model).patch_map(inputs, lambda output: output.softmax(1)[:, 2])
    np.testing.assert_allclose(softmax[:, 8, 8], unit(upsampled(expected))[:, 8, 8], atol=1e-5)


def upsampled(patch_map: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(patch_map[:, None], size=(64, 64), mode="bilinear")[:, 0]


def test_wrong_targets_raise_instead_of_being_truncated() -> None:
    # pytorch_grad_cam zips targets and rows, and silently ignores the rest.
    cam = as_gradcam(vi.GMAR(small_vit()))
    with pytest.raises(ValueError, match="`targets` must be 2 functions, one per image, got 1"):
        cam(images(2), [ClassifierOutputTarget(1)])
    for wrong in (3, "pred", [3, 4], torch.tensor([1, 2])):
        with pytest.raises(TypeError, match="`targets` must be None or a list of functions of one row"):
            cam(images(2), wrong)
    with pytest.raises(ValueError, match="must compute one score per image"):
        cam(images(2), [RawScoresOutputTarget(), RawScoresOutputTarget()])
    with pytest.raises(TypeError, match="`explainer` must be an Explainer, got VisionTransformer"):
        as_gradcam(small_vit())


def test_a_constant_map_is_zero() -> None:
    model = small_vit()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:64] = 0.0
            block.attn.qkv.bias[:64] = 0.0
    result = as_gradcam(vi.RawAttention(model))(images(2))
    assert not np.isnan(result).any()
    assert (result == 0).all()
    rounded = torch.ones(1, 4, 4) + torch.finfo(torch.float32).eps * torch.eye(4)
    assert (as_gradcam(Fixed(rounded))(images(1)) == 0).all()
    # Small differences may be real: variances of attention are of the order of 1e-6.
    tiny_map = as_gradcam(Fixed(1e-9 * torch.arange(16.0).view(1, 4, 4)))(images(1))
    assert tiny_map.max() == 1.0
    with pytest.raises(ValueError, match="NaN or infinite"):
        as_gradcam(Fixed(torch.full((1, 4, 4), torch.nan)))(images(1))


class Fixed(vi.Explainer):
    """An explainer that returns the same map for all images."""

    quantity = source = "test"

    def __init__(self, values: Tensor, model: nn.Module | None = None) -> None:
        """Store the map."""
        super().__init__(model or small_vit())
        self.values = values

    def _explain(self, inputs: Tensor, *_: Any) -> tuple[Tensor, vi.TokenLayout]:
        return self.values.flatten(1), vi.token_layout(self.model, tuple(inputs.shape[-2:]))


def test_pixels_that_no_patch_covers_are_zero_and_ignored() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=40)  # 2 x 2 patches, 8 pixels left over
    values = torch.tensor([[[5.0, 6.0], [7.0, 9.0]]])
    result = as_gradcam(Fixed(values, model))(images(1, (40, 40)))[0]
    assert (result[32:] == 0).all()
    assert (result[:, 32:] == 0).all()
    assert result[0, 0] == 0.0
    assert result[31, 31] == 1.0
    np.testing.assert_allclose(
        result[:32, :32], unit(references.bilinear(values[0].tolist(), (32, 32))[None])[0], atol=1e-6
    )


def test_options_of_patch_map_and_another_order_of_smoothing() -> None:
    model, inputs = small_vit(), images()
    result = as_gradcam(vi.InteractionUncertainty(model), patch=(1, 2))(inputs)
    expected = unit(upsampled(vi.InteractionUncertainty(model).patch_map(inputs, patch=(1, 2))))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_aug_smooth_averages_over_flips_and_brightnesses() -> None:
    family = FAMILIES["non_square"]
    model, inputs = family.build(), family.images()
    targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(2)]
    cam = as_gradcam(vi.GMAR(model))
    smooth = cam(input_tensor=inputs, targets=targets, aug_smooth=True)
    expected = np.zeros_like(smooth)
    for factor in (0.9, 1.0, 1.1):
        expected += cam(inputs * factor, targets) / 6
        expected += cam(inputs.flip(-1) * factor, targets)[..., ::-1] / 6
    np.testing.assert_allclose(smooth, expected, atol=1e-4)
    with pytest.raises(ValueError, match="`eigen_smooth` must be False"):
        cam(inputs, targets, eigen_smooth=True)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")  # ROAD under numpy 2
@pytest.mark.parametrize("explainer", [vi.AttentionRollout, Gradcam])
def test_grad_cams_metrics_accept_our_maps(explainer: type[vi.Explainer]) -> None:
    model, inputs = small_vit(), images().clamp(0)
    targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(2)]
    cam = as_gradcam(explainer(model))
    maps = cam(inputs, targets)
    for metric in (ROADCombined(percentiles=[20, 60]), ROADMostRelevantFirst(50)):
        scores = metric(inputs, maps, targets, model)
        assert scores.shape == (2,)
        assert np.isfinite(scores).all()
    # The score of the image multiplied by the map, by hand.
    with torch.no_grad():
        change = model(inputs) - model(inputs * torch.from_numpy(maps)[:, None])
    drop = DropInConfidence()(inputs, maps, targets, model)
    np.testing.assert_allclose(drop, [max(change[0, 1].item(), 0), max(change[1, 2].item(), 0)], atol=1e-5)
    coherency = Coherency()(inputs, maps, targets, model, cam)
    again = cam(inputs * torch.from_numpy(maps)[:, None], targets)
    expected = [(np.corrcoef(a.flatten(), b.flatten())[0, 1] + 1) / 2 for a, b in zip(maps, again, strict=True)]
    np.testing.assert_allclose(coherency, expected, atol=1e-4)
    assert ARCC(cam, road_percentiles=[50])(inputs, maps, targets, model).shape == (2,)


def test_show_cam_on_image_draws_it() -> None:
    photograph = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)).numpy()
    picture = show_cam_on_image(photograph, as_gradcam(vi.RawAttention(small_vit()))(images(1))[0], use_rgb=True)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 0


@pytest.mark.parametrize("explainer", [vi.RawAttention, vi.GMAR, Gradcam])
def test_nothing_leaks_from_the_with_block(explainer: type[vi.Explainer]) -> None:
    model, inputs = lived_in_model(), images()
    before = state_of(model)
    with as_gradcam(explainer(model)) as cam:
        assert_same_state(before, state_of(model))
        cam(inputs)
        assert_same_state(before, state_of(model))
        cam(inputs, [ClassifierOutputTarget(1)] * 2, aug_smooth=True)
    assert_same_state(before, state_of(model))
    with pytest.raises(IndexError, match="of the user"), as_gradcam(explainer(model)) as cam:
        raise IndexError("of the user")
    with pytest.raises(IndexError), as_gradcam(explainer(model)) as cam:
        cam(inputs, [ClassifierOutputTarget(77)] * 2)
    assert_same_state(before, state_of(model))
    # It still works after the block, because it has no resources.
    assert cam(inputs).shape == (2, 64, 64)


# --- CAMs as explainers ---


def hooked(model: nn.Module, layer: nn.Module, inputs: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Compute the output of a layer and the gradient of a score there with a plain hook."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *args: kept.append(args[2]))
    score = model(inputs.clone().requires_grad_())[:, target].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    return kept[0].detach(), gradient


def gradcam_by_hand(tokens: Tensor, gradient: Tensor, family: Family) -> Tensor:
    """Compute Grad-CAM with loops over images, patches and channels."""
    rows, cols = family.grid
    result = torch.zeros(len(tokens), rows, cols, dtype=torch.float64)
    for b in range(len(tokens)):
        weights = [0.0] * tokens.shape[-1]
        for channel in range(tokens.shape[-1]):
            for patch in range(rows * cols):
                weights[channel] += gradient[b, family.prefix + patch, channel].item() / (rows * cols)
        for row in range(rows):
            for col in range(cols):
                token = tokens[b, family.prefix + row * cols + col].tolist()
                result[b, row, col] = max(0.0, sum(w * value for w, value in zip(weights, token, strict=True)))
    return result


@some_families
def test_gradcam_equals_its_equation_at_the_last_norm_before_attention(name: str) -> None:
    family, target = FAMILIES[name], 4 if name == "hybrid" else 2
    model, inputs = family.build().double(), family.images().double()
    tokens, gradient = hooked(model, model.blocks[-1].norm1, inputs, target)
    expected = gradcam_by_hand(tokens, gradient, family)
    assert expected.flatten(1).max(1).values.min() > 0
    for explainer in (Gradcam(model), Gradcam(model, layer=f"blocks.{len(model.blocks) - 1}.norm1")):
        assert_near(explainer.patch_map(inputs, target), expected, 1e-9)
        assert explainer.attribute(inputs, target).shape == inputs.shape
    first = gradcam_by_hand(*hooked(model, model.blocks[0].norm1, inputs, target), family)
    assert first.flatten(1).max(1).values.min() > 0
    assert_near(Gradcam(model, layer="blocks.0.norm1").patch_map(inputs, target), first, 1e-9)


def hf_vit() -> nn.Module:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return sharpen(hf.ViTForImageClassification(hf.ViTConfig(image_size=64, patch_size=16, num_labels=5, **size)))


class AttendingBlock(nn.Module):
    """A block that passes its tokens to attention as query, key and value, some by name."""

    def __init__(self) -> None:
        """Build the block."""
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.attend = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add what each token attends to."""
        normed = self.norm(tokens)
        attended: Tensor = self.attend(normed, value=normed, key=normed)[0]
        return tokens + attended


class MeanPooled(nn.Module):
    """A custom ViT without class token, whose patches get a gradient even without the attention's query."""

    num_prefix_tokens, global_pool = 0, "avg"

    def __init__(self) -> None:
        """Build the model."""
        super().__init__()
        self.patch_embed = timm.layers.PatchEmbed(64, 16, 3, 32)
        self.blocks = nn.Sequential(AttendingBlock(), AttendingBlock())
        self.head = nn.Linear(32, 5)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the scores."""
        scores: Tensor = self.head(self.blocks(self.patch_embed(image)).mean(1))
        return scores


@pytest.mark.parametrize("name", ["torchvision", "mean_pooled"])
def test_the_default_layer_is_the_norm_before_attention_of_query_key_and_value(name: str) -> None:
    torch.manual_seed(0)
    model, layer = {
        "torchvision": (torchvision_vit(), "encoder.layers.encoder_layer_1.ln_1"),
        "mean_pooled": (MeanPooled(), "blocks.1.norm"),
    }[name]
    model, inputs = model.double().eval(), images().double()
    for method in (Gradcam, *(GRADCAM_METHODS[n] for n in ("hirescam", "layercam", "gradcam_plus_plus"))):
        at_norm = method(model, layer=layer).patch_map(inputs, 2)
        assert at_norm.flatten(1).any(1).all()
        assert_near(method(model).patch_map(inputs, 2), at_norm, 1e-9)
    signed = CaptumLayerGradCam(model, layer=layer).patch_map(inputs, 2)
    assert_near(CaptumLayerGradCam(model).patch_map(inputs, 2), signed, 1e-9)
    tokens, gradient = hooked(model, model.get_submodule(layer), inputs, 2)
    prefix = tokens.shape[1] - 16
    weights = gradient[:, prefix:].mean(1, keepdim=True)
    assert_near(signed.flatten(1), (weights * tokens[:, prefix:]).sum(2), 1e-9)


# Attention that gets its tokens as one positional argument, by name, and as query, key and value.
OTHER_LIBRARIES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "transformers": (hf_vit, "vit.layers.1.layernorm_before"),
    "torchvision": (torchvision_vit, "encoder.layers.encoder_layer_1.ln_1"),
}


@pytest.mark.parametrize("name", OTHER_LIBRARIES)
def test_gradcam_equals_its_equation_on_models_of_other_libraries(name: str) -> None:
    build, layer = OTHER_LIBRARIES[name]
    model, inputs = build().double().eval(), images().double()
    plain = Logits(model)
    expected = gradcam_by_hand(*hooked(plain, model.get_submodule(layer), inputs, 2), FAMILIES["vit"])
    against = gradcam_by_hand(*negated(hooked(plain, model.get_submodule(layer), inputs, 2)), FAMILIES["vit"])
    assert (expected + against).flatten(1).max(1).values.min() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vi.ZeroMapWarning)
        assert_near(Gradcam(model).patch_map(inputs, 2), expected, 1e-9)
        signed = CaptumLayerGradCam(model).patch_map(inputs, 2)
    assert_near(signed, expected - against, 1e-9)


class Logits(nn.Module):
    """A wrapper that returns only the scores."""

    def __init__(self, model: nn.Module) -> None:
        """Store the model."""
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Compute the scores."""
        output = self.model(image)
        scores: Tensor = getattr(output, "logits", output)
        return scores


def negated(tokens_and_gradient: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Flip the sign of the score."""
    return tokens_and_gradient[0], -tokens_and_gradient[1]


@pytest.mark.parametrize("name", ["vit", "dinov3"])
@every_cam
def test_every_cam_equals_grad_cams(method: type[GradcamMethod], name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.images()

    def transform(tokens: Tensor) -> Tensor:
        return tokens[:, family.prefix :].reshape(len(tokens), *family.grid, -1).permute(0, 3, 1, 2)

    for smooth in (False, True) if method is Gradcam else (False,):
        theirs = getattr(pytorch_grad_cam, method.cam)(copy.deepcopy(model), [model.blocks[-1].norm1], transform)
        theirs = getattr(pytorch_grad_cam, method.cam)(theirs.model, [theirs.model.blocks[-1].norm1], transform)
        expected = theirs(inputs, [ClassifierOutputTarget(1), ClassifierOutputTarget(4)], eigen_smooth=smooth)
        ours = method(model, eigen_smooth=smooth).patch_map(inputs, [1, 4])
        width_height = (family.size[1], family.size[0])
        scaled = scale_cam_image(scale_cam_image(ours.numpy(), width_height))
        np.testing.assert_allclose(scaled, expected, atol=1e-3)


# All CAMs get the tokens in the same way, so two are tested on every family and all on one.
WAYS = [(method, name) for method in (Gradcam, Eigencam) for name in FAMILIES]
WAYS += [(method, "dinov2_reg4") for method in GRADCAM_METHODS.values() if method not in (Gradcam, Eigencam)]


@pytest.mark.parametrize(("method", "name"), WAYS, ids=lambda part: getattr(part, "cam", part))
def test_cams_do_not_depend_on_the_batch(method: type[GradcamMethod], name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.images(3)
    explaining = method(model)
    classes = [0, 1, 4]
    together = explaining.patch_map(inputs, classes)
    assert together.shape == (3, *family.grid)
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert together.flatten(1).max(1).values.min() > 0
    assert torch.equal(explaining.patch_map(inputs, classes), together)
    alone = [explaining.patch_map(inputs[i : i + 1], classes[i]) for i in range(3)]
    assert_near(torch.cat(alone), together, 1e-4)


def test_randomized_component_searches_are_seeded() -> None:
    # From 201 patches on, scikit-learn starts its search at a random point.
    explaining, inputs = KpcaCam(small_vit(img_size=240)), images(1, (240, 240))
    before = np.random.get_state()[1].copy()
    first = explaining.patch_map(inputs)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    assert torch.equal(explaining.patch_map(inputs), first)


def test_grad_cams_own_classes_work_with_our_reshape_transform(families: dict[str, Family]) -> None:
    for name in ("dinov2_reg4", "non_square", "siglip"):
        family = families[name]
        model, inputs = family.build(), family.images()
        transform = reshape_transform(vi.token_layout(model, family.size))
        with pytorch_grad_cam.GradCAM(model, [model.blocks[-1].norm1], transform) as cam:
            expected = cam(inputs, [ClassifierOutputTarget(1)] * 2)
        with as_gradcam(Gradcam(model)) as ours:
            result = ours(inputs, [ClassifierOutputTarget(1)] * 2)
        # cv2 resizes to the same pixels; grad-cam scales before, we scale after.
        assert result.shape == expected.shape
        for a, b in zip(result, expected, strict=True):
            assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.999
    with pytest.raises(ValueError, match=r"shape \(batch, 17 tokens or 16 patches, channels\) for 4 x 4"):
        reshape_transform(vi.token_layout(small_vit(), (64, 64)))(torch.zeros(1, 18, 8))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("vit", "blocks.2"), ("vit", "norm"), ("distilled", "blocks.1"), ("dinov2_reg4", "blocks.1.ls2")],
)
def test_a_layer_without_gradient_raises(name: str, layer: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.images()
    for method in (Gradcam, Hirescam):
        with pytest.raises(
            ValueError, match=rf"gradient at the output of `{layer}` is exactly 0 at every patch of image 0"
        ):
            method(model, layer=layer).patch_map(inputs, 1)
    # A method without gradients can still read the features there.
    assert Eigencam(model, layer=layer).patch_map(inputs).shape == (2, *family.grid)


@pytest.mark.parametrize("name", ["dinov3", "reg4_gap", "siglip", "relpos"])
def test_the_last_block_has_gradients_if_patches_are_pooled(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build().double(), family.images().double()
    expected = gradcam_by_hand(*hooked(model, model.blocks[-1], inputs, target=1), family)
    assert_near(Gradcam(model, layer="blocks.1").patch_map(inputs, 1), expected, 1e-9)


def test_layers_that_do_not_return_tokens_raise() -> None:
    model = small_vit()
    model.idle = nn.Identity()
    with pytest.raises(
        ValueError, match=r"`layer` must name a module of VisionTransformer, such as 'blocks.1.attn'"
    ):
        Gradcam(model, layer="blocks.7").patch_map(images(), 1)
    with pytest.raises(vi.UnsupportedModelError, match=r"must return the 17 tokens .*, got \(2, 5\) from `head`"):
        Gradcam(model, layer="head").patch_map(images(), 1)
    with pytest.raises(ValueError, match="`layer` must run in the forward pass, got 'idle'"):
        Gradcam(model, layer="idle").patch_map(images(), 1)
    with pytest.raises(ValueError, match="`target` must be a class index"):
        Gradcam(model).patch_map(images())
    with pytest.raises(IndexError, match="5 classes"):
        Eigencam(model).patch_map(images(), 5)
    assert not [hook for module in model.modules() for hook in module._forward_hooks]


def test_the_planted_patch_is_found() -> None:
    model, image = planted_model(), planted_image()
    # The red channel's mean gradient is 1/17, its activation 1.
    for method in (Gradcam, Hirescam, GRADCAM_METHODS["layercam"], GRADCAM_METHODS["gradcam_elementwise"]):
        torch.testing.assert_close(method(model).patch_map(image, 1), planted_map())
    for method in GRADCAM_METHODS.values():
        if method.cam not in ("EigenCAM", "EigenGradCAM", "KPCA_CAM"):  # whose sign is arbitrary
            assert method(model).patch_map(image, 1).flatten().argmax() == 6, method
    with pytest.raises(ValueError, match="exactly 0 at every patch of image 0"):
        Gradcam(model).patch_map(image, 0)  # a score that depends on nothing


def test_every_class_of_grad_cam_is_offered_or_has_a_reason() -> None:
    parts = {"AblationLayer", "AblationLayerFasterRCNN", "AblationLayerVit", "ActivationsAndGradients"}
    classes = {name for name, member in vars(pytorch_grad_cam).items() if inspect.isclass(member)} - parts
    assert classes == {method.cam for method in GRADCAM_METHODS.values()} | set(NOT_OFFERED)
    for cam in NOT_OFFERED:
        with pytest.raises(ValueError, match=rf"got '{cam.lower()}'\. {cam} is not offered: it .+\.$"):
            find_method(cam.lower())
    assert why_not_offered("finer-cam") == why_not_offered("FinerCAM")
    assert not any(why_not_offered(name) for name in (*GRADCAM_METHODS, "nonsense"))


def test_methods_of_other_libraries_are_found_by_name() -> None:
    assert find_method("gradcam") is Gradcam
    assert find_method("saliency") is CaptumSaliency
    assert all(find_method(name) is method for name, method in vi.EXPLAINERS.items())
    assert list(all_methods()) == [*vi.EXPLAINERS, *METHODS]  # so no name is in both
    for wrong, right in {
        "GradCAM": "gradcam",
        "gradcam++": "gradcam_plus_plus",
        "salience": "saliency",
        "atention_rollout": "attention_rollout",
        "integrated-gradients": "integrated_gradients",
    }.items():
        with pytest.raises(ValueError, match=rf", got '{re.escape(wrong)}'\. Did you mean {right}\b"):
            find_method(wrong)
    with pytest.raises(ValueError, match=r"`vit-interactions methods` lists, got 'xyzzy'\.$"):
        find_method("xyzzy")


def test_a_users_method_takes_precedence_over_one_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vi.EXPLAINERS, "gradcam", vi.RawAttention)
    assert find_method("gradcam") is all_methods()["gradcam"] is vi.RawAttention


@every_cam
def test_methods_can_be_pickled(method: type[GradcamMethod]) -> None:
    copied = pickle.loads(pickle.dumps(method(small_vit())))
    assert type(copied) is method
    assert torch.equal(copied.patch_map(images(), 1), method(small_vit()).patch_map(images(), 1))


# --- properties of all methods of other libraries, including captum's ---

every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_methods_of_other_libraries_describe_themselves(name: str) -> None:
    method = METHODS[name]
    assert issubclass(method, vi.Explainer)
    assert method.source
    assert method.quantity
    assert method.__doc__
    assert isinstance(method.class_specific, bool)
    model = small_vit()
    passes: list[int] = []
    model.register_forward_hook(lambda *args: passes.append(len(args[2])))
    vi.probe(model, images(1))
    passes.clear()
    first = method(model).patch_map(images(1), 1)
    if "occlusion" in name or "ablation" in name:
        assert len(passes) == 17
        assert method.forwards == 197
    else:
        assert len(passes) == method.forwards
    # Class-specific methods give different maps for two classes, the others the same map.
    assert torch.equal(first, method(small_vit()).patch_map(images(1), 2)) is not method.class_specific


@every_method
def test_methods_of_other_libraries_do_not_change_the_model(name: str) -> None:
    model = lived_in_model()
    inputs = images().requires_grad_()
    kept, before, numpy_state = inputs.detach().clone(), state_of(model), np.random.get_state()[1].copy()
    method = METHODS[name](model)
    method.attribute(inputs, target="pred")
    assert_same_state(before, state_of(model))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert inputs.requires_grad
    assert inputs.grad is None
    assert torch.equal(inputs.detach(), kept)
    # Even after an exception, wherever it is raised.
    switch = {"left": 0}

    def fail(*_: Any) -> None:
        switch["left"] -= 1
        if switch["left"] == 0:
            raise KeyboardInterrupt

    model.blocks[2].norm2.register_forward_hook(fail)
    before = state_of(model)
    for forward in (1, 2):
        switch["left"] = forward
        if forward <= method.forwards:
            with pytest.raises(KeyboardInterrupt):
                METHODS[name](model).attribute(images(1), target=1)
            assert_same_state(before, state_of(model))


@every_method
def test_frozen_models_and_gradient_modes_do_not_matter(name: str) -> None:
    model, inputs = small_vit(), images()
    explain: Callable[[], Tensor] = lambda: METHODS[name](model).attribute(inputs, target=[1, 2])  # noqa: E731
    expected = explain()
    assert expected.shape == inputs.shape
    assert expected.is_contiguous()
    assert not expected.requires_grad
    with torch.no_grad():
        assert torch.equal(explain(), expected)
    with torch.inference_mode():
        inputs = inputs.clone()
        assert torch.equal(explain(), expected)
    model.requires_grad_(False)
    assert torch.equal(explain(), expected)
    model.train()
    assert torch.equal(explain(), expected)
    (in_tuple,) = METHODS[name](model).attribute((inputs,), target=[1, 2])
    assert torch.equal(in_tuple, expected)


@every_method
def test_half_precision_is_close(name: str) -> None:
    model, inputs = small_vit(), images(1)
    expected = METHODS[name](model).patch_map(inputs, 1)
    half = METHODS[name](small_vit().bfloat16()).patch_map(inputs.bfloat16(), 1)
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    if name not in ("eigencam", "eigengradcam", "kpca_cam"):  # whose sign is arbitrary
        correlation = torch.corrcoef(torch.stack((half.flatten(), expected.flatten())))[0, 1]
        # Differences of bfloat16 scores keep two or three bits.
        assert correlation > (0.8 if "occlusion" in name or "ablation" in name else 0.95)
    double = METHODS[name](small_vit().double()).patch_map(inputs.double(), 1)
    assert double.dtype == torch.float64
    assert_near(double.float(), expected, 1e-3)


@every_method
def test_images_of_another_type_raise(name: str) -> None:
    with pytest.raises(TypeError, match=r"torch\.float32 like the model"):
        METHODS[name](small_vit()).patch_map(images().double(), 1)


def test_grad_cam_is_imported_only_on_use() -> None:
    for path in Path(vit_interactions_adapters.__file__).parent.glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text()))
        loads = bool(re.search(r"^\s*(from|import) pytorch_grad_cam", path.read_text(), re.M))
        assert loads == (path.name == "gradcam.py"), path


def test_maps_differ_between_methods_and_images() -> None:
    model, inputs = small_vit(), images()
    maps = {name: method(model).patch_map(inputs, 1) for name, method in METHODS.items()}
    same = {("occlusion", "feature_ablation")}
    names = list(maps)
    for i, first in enumerate(names):
        assert differs(maps[first][0], maps[first][1])
        for second in names[i + 1 :]:
            assert differs(maps[first], maps[second]) is ((first, second) not in same), (first, second)
