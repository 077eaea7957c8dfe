"""Tests of captum's methods as explainers: attributions checked by hand, maps over patches, and all targets."""

from collections import OrderedDict
from typing import Any

import captum
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn
from vit_interactions_adapters.captum_base import _score_rows
from vit_interactions_adapters.captum_methods import (
    CAPTUM_METHODS,
    CaptumFeatureAblation,
    CaptumGradientShap,
    CaptumInputXGradient,
    CaptumIntegratedGradients,
    CaptumLayerGradCam,
    CaptumOcclusion,
    CaptumSaliency,
)
from vit_interactions_adapters.gradcam_methods import Gradcam

import vit_interactions as vi
from tests.helpers.explaining import assert_near, differs, images, small_vit
from tests.helpers.families import FAMILIES, Family, tiny
from tests.helpers.planted import SHARE, planted_image, planted_map, planted_model

every_method = pytest.mark.parametrize("method", CAPTUM_METHODS.values(), ids=CAPTUM_METHODS)
SOME = ["vit", "distilled", "dinov2_reg4", "dinov3", "siglip", "non_square", "padded", "hybrid"]
some_families = pytest.mark.parametrize("name", SOME)


def gradient(model: nn.Module, inputs: Tensor, classes: list[int]) -> Tensor:
    """Compute the gradient of the pixels for one class per image."""
    leaf = inputs.clone().requires_grad_()
    output = model(leaf)
    score = torch.stack([output[b, c] for b, c in enumerate(classes)]).sum()
    return torch.autograd.grad(score, leaf)[0]


def sum_over_patches(pixels: Tensor, family: Family) -> Tensor:
    """Add up the pixels and channels of each patch in loops."""
    (rows, cols), (height, width) = family.grid, family.extent
    result = torch.zeros(len(pixels), rows, cols, dtype=pixels.dtype)
    for row in range(rows):
        for col in range(cols):
            top, left = row * height // rows, col * width // cols
            block = pixels[:, :, top : top + height // rows, left : left + width // cols]
            result[:, row, col] = block.sum((1, 2, 3))
    return result


@some_families
def test_gradients_at_the_pixels_are_summed_over_patches(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build().double(), family.images().double()
    expected = gradient(model, inputs, [1, 3])
    for method, pixels in ((CaptumSaliency, expected.abs()), (CaptumInputXGradient, expected * inputs)):
        assert_near(method(model).attribute(inputs, [1, 3]), pixels, 1e-9)
        assert_near(method(model).patch_map(inputs, [1, 3]), sum_over_patches(pixels, family), 1e-9)


@pytest.mark.parametrize("name", [name for name in SOME if name != "hybrid"])
def test_integrated_gradients_are_complete(name: str) -> None:
    family = FAMILIES[name]
    # A hybrid's stem divides by the contrast, so its gradient is unbounded where an image fades to one color.
    model, inputs = family.build().double(), family.images().double()
    baseline = 0.5 * family.images(1, seed=5).double()
    with torch.no_grad():
        whole = model(inputs)[[0, 1], [1, 3]]
        from_zero = whole - model(torch.zeros_like(inputs))[:, [1, 3]].diagonal()
        from_baseline = whole - model(baseline)[0, [1, 3]]
    for explainer, expected in (
        (CaptumIntegratedGradients(model, n_steps=100), from_zero),
        (CaptumIntegratedGradients(model, baseline, n_steps=100, internal_batch_size=8), from_baseline),
    ):
        torch.testing.assert_close(explainer.patch_map(inputs, [1, 3]).sum((1, 2)), expected, rtol=0.02, atol=1e-3)


def test_integrated_gradients_equal_captums() -> None:
    model, inputs = small_vit(), images()
    expected = captum.attr.IntegratedGradients(model).attribute(inputs, target=[1, 3], n_steps=7)
    assert_near(CaptumIntegratedGradients(model, n_steps=7).attribute(inputs, [1, 3]), expected)
    trapezoid = CaptumIntegratedGradients(model, n_steps=7, method="riemann_trapezoid").attribute(inputs, [1, 3])
    theirs = captum.attr.IntegratedGradients(model).attribute(inputs, None, [1, 3], None, 7, "riemann_trapezoid")
    assert_near(trapezoid, theirs)
    assert differs(trapezoid, expected)


@some_families
def test_occlusion_is_the_drop_of_the_score(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.images()
    (rows, cols), (height, width) = family.grid, family.extent
    expected = torch.zeros(2, rows, cols)
    with torch.no_grad():
        whole = model(inputs)
        for row in range(rows):
            for col in range(cols):
                top, left = row * height // rows, col * width // cols
                occluded = inputs.clone()
                occluded[:, :, top : top + height // rows, left : left + width // cols] = 0.25
                expected[:, row, col] = (whole - model(occluded))[[0, 1], [1, 3]]
    for method in (CaptumOcclusion, CaptumFeatureAblation):
        for count in (1, 5):
            explainer = method(model, baselines=0.25, perturbations_per_eval=count)
            assert_near(explainer.patch_map(inputs, [1, 3]), expected, 1e-4)
        # Each pixel has the value of its patch.
        attribution = method(model, baselines=0.25).attribute(inputs, [1, 3])
        assert_near(attribution[:, 1, 0, 0], expected[:, 0, 0], 1e-4)


def test_occlusion_with_larger_windows_is_their_mean() -> None:
    model, inputs = small_vit(), images(1)
    expected, counts = torch.zeros(4, 4), torch.zeros(4, 4)
    with torch.no_grad():
        for row in range(3):
            for col in range(3):
                occluded = inputs.clone()
                occluded[:, :, 16 * row : 16 * row + 32, 16 * col : 16 * col + 32] = 0.0
                expected[row : row + 2, col : col + 2] += (model(inputs) - model(occluded))[0, 2]
                counts[row : row + 2, col : col + 2] += 1
    result = CaptumOcclusion(model, window=2).patch_map(inputs, 2)
    assert_near(result[0], expected / counts, 1e-4)
    assert CaptumOcclusion(model, window=9).patch_map(inputs, 2).unique().numel() == 1
    with pytest.raises(ValueError, match="`window` must be at least 1 patch, got 0"):
        CaptumOcclusion(model, window=0)


def test_feature_ablation_accepts_custom_regions() -> None:
    model, inputs = small_vit(), images()
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.long)
    mask[..., 32:] = 1
    result = CaptumFeatureAblation(model, feature_mask=mask).patch_map(inputs, 2)
    with torch.no_grad():
        left, right = inputs.clone(), inputs.clone()
        left[..., :32], right[..., 32:] = 0.0, 0.0
        drops = [(model(inputs) - model(part))[:, 2] for part in (left, right)]
    torch.testing.assert_close(result[:, :, :2], drops[0][:, None, None].expand(2, 4, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result[:, :, 2:], drops[1][:, None, None].expand(2, 4, 2), rtol=1e-4, atol=1e-5)


def test_pixels_that_no_patch_covers_are_ignored() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=40)  # 2 x 2 patches, 8 pixels left over
    inputs = images(1, (40, 40))
    family = Family("rest", lambda: model, (40, 40), 1, (2, 2), "token", extent=(32, 32))
    for method in CAPTUM_METHODS.values():
        attribution = method(model).attribute(inputs, 1)
        assert attribution[..., 32:].eq(0).all()
        assert attribution[..., 32:, :].eq(0).all()
        assert not attribution.eq(0).all()
        patch_map = method(model).patch_map(inputs, 1)
        assert patch_map.shape == (1, 2, 2)
        if method.per_patch == "sum" and method is not CaptumLayerGradCam:
            assert_near(patch_map, sum_over_patches(attribution, family), 1e-4)
    assert_near(
        CaptumFeatureAblation(model).patch_map(inputs, 1), CaptumOcclusion(model).patch_map(inputs, 1), 1e-4
    )


@some_families
def test_layer_grad_cam_treats_tokens_as_positions(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.images()
    signed = CaptumLayerGradCam(model).patch_map(inputs, [0, 4])
    assert signed.shape == (2, *family.grid)
    assert_near(signed.clamp(min=0), Gradcam(model).patch_map(inputs, [0, 4]), 1e-4)
    named = CaptumLayerGradCam(model, layer="blocks.0.norm1").patch_map(inputs, [0, 4])
    assert_near(named.clamp(min=0), Gradcam(model, layer="blocks.0.norm1").patch_map(inputs, [0, 4]), 1e-4)
    # captum alone treats tokens as channels: one value per channel of the model.
    alone = captum.attr.LayerGradCam(model, model.blocks[-1].norm1).attribute(inputs, target=[0, 4])
    assert alone.shape == (2, 1, 32)
    if family.readout in ("token", "distilled"):
        with pytest.raises(ValueError, match=r"is exactly 0 at every patch of image 0"):
            CaptumLayerGradCam(model, layer=f"blocks.{len(model.blocks) - 1}").patch_map(inputs, 1)


def test_gradient_shap_is_seeded_and_exact_for_linear_models() -> None:
    model, image = planted_model(), planted_image()
    torch.testing.assert_close(CaptumGradientShap(model).patch_map(image, 1), planted_map())
    half = CaptumGradientShap(model, baselines=0.5 * image).patch_map(image, 1)
    torch.testing.assert_close(half, planted_map(SHARE / 2))
    curved, inputs = small_vit(), images(3)
    drawn = images(4, seed=7)
    result = CaptumGradientShap(curved, drawn, stdevs=0.1).attribute(inputs, [0, 1, 2])
    torch.manual_seed(5)
    assert torch.equal(CaptumGradientShap(curved, drawn, stdevs=0.1).attribute(inputs, [0, 1, 2]), result)
    assert differs(CaptumGradientShap(curved, drawn, stdevs=0.1, seed=1).attribute(inputs, [0, 1, 2]), result)
    # Each image uses the same random numbers, which captum draws.
    for index in range(3):
        torch.manual_seed(0)
        np.random.seed(0)
        image = inputs[index : index + 1]
        expected = captum.attr.GradientShap(curved).attribute(image, drawn, stdevs=0.1, target=index)
        assert_near(result[index : index + 1], expected.detach())


def test_the_planted_patch_is_found() -> None:
    model, image = planted_model(), planted_image()
    for method in CAPTUM_METHODS.values():
        result = method(model).patch_map(image, 1)
        # The model is linear: its gradient is constant, and all other methods give the exact contribution.
        expected = torch.full((1, 4, 4), SHARE) if method is CaptumSaliency else planted_map()
        torch.testing.assert_close(result, expected)


# --- batches and targets ---


@some_families
@every_method
def test_a_batch_equals_its_single_images(method: type[Any], name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.images(3)
    options = {"n_steps": 4} if method is CaptumIntegratedGradients else {}
    explaining = method(model, **options)
    together = explaining.patch_map(inputs, [0, 1, 2])
    assert together.shape == (3, *family.grid)
    assert torch.equal(explaining.patch_map(inputs, [0, 1, 2]), together)
    assert_near(torch.cat([explaining.patch_map(inputs[i : i + 1], i) for i in range(3)]), together, 1e-4)


BATCHED = {
    "saliency": lambda model: CaptumSaliency(model),
    "integrated": lambda model: CaptumIntegratedGradients(model, n_steps=5, internal_batch_size=7),
    "shap": lambda model: CaptumGradientShap(model),
    "occlusion": lambda model: CaptumOcclusion(model, perturbations_per_eval=3),
    "grad_cam": lambda model: CaptumLayerGradCam(model),
}


@pytest.mark.parametrize("build", BATCHED.values(), ids=BATCHED)
def test_all_forms_of_targets_agree_although_captum_repeats_rows(build: Any) -> None:
    model, inputs = small_vit(), images(3)
    explaining = build(model)
    expected = explaining.patch_map(inputs, [4, 0, 2])
    words = torch.eye(5)[[4, 0, 2]]
    forms = (
        torch.tensor([4, 0, 2]),
        [(4,), (0,), (2,)],
        [-1, 0, -3],
        lambda output: (output * words).sum(1),  # one caption per image
        lambda output: output[[0, 1, 2], [4, 0, 2]],
    )
    for target in forms:
        assert_near(explaining.patch_map(inputs, target), expected, 1e-5)
    one = explaining.patch_map(inputs, 2)
    assert_near(one[2:], expected[2:], 1e-4)
    assert_near(explaining.patch_map(inputs, lambda output: output[:, 2]), one, 1e-5)
    # The predicted class of the image itself, not of captum's perturbed images.
    predicted = model(inputs).argmax(1)
    assert_near(explaining.patch_map(inputs, "pred"), explaining.patch_map(inputs, predicted), 1e-5)
    with pytest.raises(ValueError, match="`target` must be a class index"):
        explaining.patch_map(inputs)
    with pytest.raises(ValueError, match="one class or 3, one per example, got 2"):
        explaining.patch_map(inputs, [1, 2])


@pytest.mark.parametrize("example", [[0, 1, 2], [2, 0, 1], [1], [2, 0, 2, 1], [0, 0, 1, 1, 2, 2], [2, 2, 2, 2, 0]])
def test_rows_in_any_order_are_scored_with_their_image(example: list[int]) -> None:
    output = torch.randn(len(example), 5)
    words = torch.randn(3, 5)
    scores = _score_rows(output, torch.tensor(example), 3, lambda rows: (rows * words).sum(1))
    expected = [(row * words[image]).sum() for row, image in zip(output, example, strict=True)]
    torch.testing.assert_close(scores, torch.stack(expected))


def test_the_predicted_class_is_that_of_the_image_not_of_the_path() -> None:
    class Switch(nn.Module):
        """Dark images are class 0, bright ones class 1."""

        def __init__(self) -> None:
            super().__init__()
            self.vit = planted_model()

        def forward(self, image: Tensor) -> Tensor:
            score = self.vit(image)[:, 1]
            return torch.stack((0.5 * SHARE - score, score - 0.5 * SHARE), 1)

    result = CaptumIntegratedGradients(Switch()).patch_map(planted_image(), "pred")
    torch.testing.assert_close(result, planted_map())


class Output(OrderedDict[str, Any]):
    """An output with several tensors, as in transformers."""

    @property
    def logits(self) -> Tensor:
        """The scores of the classes."""
        scores: Tensor = self["logits"]
        return scores


class Scaled(nn.Module):
    """A model that returns several tensors and takes one factor per example."""

    def __init__(self) -> None:
        """Build the ViT inside."""
        super().__init__()
        self.vit = small_vit()

    def forward(self, image: Tensor, factor: Tensor | float = 1.0) -> Output:
        """Scale the image and return scores and twice the scores."""
        factor = factor.view(-1, 1, 1, 1) if isinstance(factor, Tensor) else factor
        logits = self.vit(image * factor)
        return Output(logits=logits, double=(2 * logits,))


@pytest.mark.parametrize("build", BATCHED.values(), ids=BATCHED)
def test_outputs_with_several_tensors_and_arguments_per_example(build: Any) -> None:
    model, inputs = Scaled(), images(3)
    explaining, plain = build(model), build(model.vit)
    expected = plain.patch_map(inputs, [1, 2, 3])
    assert_near(explaining.patch_map(inputs, [1, 2, 3]), expected, 1e-4)
    doubled = explaining.patch_map(inputs, lambda output: output["double"][0][[0, 1, 2], [1, 2, 3]])
    assert_near(doubled, 2 * expected, 1e-4)
    if build is not BATCHED["grad_cam"]:
        factors = torch.tensor([1.0, 0.5, 2.0])
        one_by_one = [explaining.patch_map(inputs[i : i + 1], i + 1, factors[i : i + 1]) for i in range(3)]
        assert_near(explaining.patch_map(inputs, [1, 2, 3], factors), torch.cat(one_by_one), 1e-4)


@pytest.mark.parametrize("build", [CaptumOcclusion, CaptumFeatureAblation])
def test_a_model_that_needs_an_argument_is_divided_into_its_patches(build: Any) -> None:
    class Needing(Scaled):
        """The same without a default for the factor."""

        def forward(self, image: Tensor, factor: Tensor | float) -> Output:  # type: ignore[override]
            """Scale the image and return the outputs."""
            return super().forward(image, factor)

    model, inputs = Needing(), images(1)
    assert_near(build(model).patch_map(inputs, 1, 1.0), build(model.vit).patch_map(inputs, 1), 1e-4)


@every_method
def test_captums_noise_tunnel_and_metrics_accept_them(method: type[Any]) -> None:
    model, inputs = small_vit(), images()
    options = {"n_steps": 2} if method is CaptumIntegratedGradients else {}
    explaining = method(model, **options)
    plain = explaining.attribute(inputs, target=1)
    still = NoiseTunnel(explaining).attribute(inputs, nt_samples=2, stdevs=0.0, target=1)
    assert_near(still, plain, 1e-4)
    sensitivity = captum.metrics.sensitivity_max(
        explaining.attribute, inputs, perturb_radius=0.5, n_perturb_samples=1, target=[1, 2]
    )
    assert sensitivity.shape == (2,)
    assert (sensitivity > 0).all()
    with pytest.raises(ValueError, match="must be one batch of images"):
        explaining.attribute((inputs, inputs), target=1)


def test_a_model_with_an_unsupported_output_raises() -> None:
    class Boxed(nn.Module):
        """A model that returns a list."""

        def __init__(self) -> None:
            super().__init__()
            self.vit = small_vit()

        def forward(self, image: Tensor) -> list[Tensor]:
            return [self.vit(image)]

    explaining = CaptumIntegratedGradients(Boxed(), n_steps=4, internal_batch_size=4)
    with pytest.raises(TypeError, match="must be a tensor or a mapping of tensors, got list"):
        explaining.patch_map(images(), lambda output: output[0][:, 1])
    # With one point at a time, rows need not be split.
    result = CaptumIntegratedGradients(Boxed(), n_steps=4).patch_map(images(), lambda output: output[0][:, 1])
    assert_near(result, CaptumIntegratedGradients(small_vit(), n_steps=4).patch_map(images(), 1))
    assert isinstance(explaining, vi.Explainer)
