"""Tests of the properties that every explainer must have, on every model family."""

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import captum
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel
from captum.attr import visualization as captum_figures
from matplotlib.figure import Figure
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explaining import (
    REASONS,
    ROWS,
    Row,
    assert_near,
    assert_same_state,
    differs,
    images,
    lived_in_model,
    make,
    small_vit,
    state_of,
)
from tests.helpers.families import FAMILIES, Family
from vit_interactions.explain.attention_path import PathExplainer
from vit_interactions.explain.registry import all_methods

# A model of random weights may speak against a class at every patch.
pytestmark = pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

# Maps that jump when U changes in its last digit, because they count or threshold.
JUMPING = (vi.ResponsiveFieldSize, vi.ResponsiveFieldTendency)


def tolerance_of(row: Row) -> float:
    """Return how far maps may differ by rounding, relative to their largest value."""
    precise = not row.method.backwards or issubclass(row.method, (PathExplainer, vi.LeGrad))
    return 1e-5 if precise else 1e-4


def target_of(explainer: vi.Explainer) -> Any:
    """Return the sum of two outputs, which every model here has, as the target of class-specific methods."""
    return (lambda output: output[:, 0] + 2 * output[:, 1]) if explainer.class_specific else None


def explain(explainer: vi.Explainer, inputs: Tensor) -> Tensor:
    """Explain images, and the opposite score too where a method drops negative evidence."""
    result = explainer.patch_map(inputs, target_of(explainer))
    if isinstance(explainer, vi.AttentionGradCAM):  # there may be no evidence for a score
        result = result - explainer.patch_map(inputs, lambda output: -output[:, 0] - 2 * output[:, 1])
    return result


@every_row
def test_shape_batch_repetition_and_fused_attention(row: Row, family: Family) -> None:
    model, inputs = family.build(), family.images()
    explainer = row(model)
    if reason := REASONS.get((row.name, family.name)):
        with pytest.raises(vi.UnsupportedModelError, match=reason):
            explain(explainer, inputs)
        return
    together = explain(explainer, inputs)
    assert together.shape == (2, *family.grid)
    assert together.dtype == torch.float32
    assert together.isfinite().all()
    assert not together.requires_grad
    # Maps differ between patches and between images.
    assert together.flatten(1).std(1).min() > 0
    assert not torch.equal(together[0], together[1])
    assert torch.equal(explain(row(model), inputs), together)
    attribution = explainer.attribute(inputs, target_of(explainer))
    assert isinstance(attribution, Tensor)
    assert attribution.shape == inputs.shape
    assert attribution.dtype == torch.float32
    assert attribution.device == inputs.device
    assert attribution.is_contiguous()
    assert not attribution.requires_grad
    assert attribution.isfinite().all()
    tolerance = tolerance_of(row)
    alone = torch.cat([explain(explainer, image[None]) for image in inputs])
    assert_near(alone, together, tolerance)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    assert_near(explain(explainer, inputs), together, tolerance)


def test_unsupported_families_exist() -> None:
    assert {family for _, family in REASONS} <= set(FAMILIES)
    assert {name for name, _ in REASONS} <= {row.name for row in ROWS}


class Folded(nn.Module):
    """A timm block's attention with its heads folded into the batch: (batch · heads, tokens, width)."""

    def __init__(self, attention: Any) -> None:
        """Take the weights of an attention module."""
        super().__init__()
        self.num_heads, self.qkv, self.proj = attention.num_heads, attention.qkv, attention.proj

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        """Attend."""
        split = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2)
        output = F.scaled_dot_product_attention(*split).unflatten(0, (-1, self.num_heads))
        result: Tensor = self.proj(output.transpose(1, 2).flatten(2))
        return result


@pytest.mark.parametrize("batch", [1, 2])
@every_row
def test_heads_folded_into_the_batch_change_nothing(row: Row, batch: int) -> None:
    model: Any = FAMILIES["vit"].build()
    inputs = FAMILIES["vit"].images(batch)
    expected = explain(row(model), inputs)
    for block in model.blocks:
        block.attn = Folded(block.attn)
    assert_near(explain(row(model), inputs), expected, 1e-4)


# --- captum's contract ---


@every_row
def test_it_is_a_captum_attribution(row: Row) -> None:
    explainer, inputs = row(small_vit()), images()
    assert isinstance(explainer, captum.attr.Attribution)
    assert explainer.forward_func is explainer.model
    assert not explainer.has_convergence_delta()
    assert not explainer.multiplies_by_inputs
    with pytest.raises(
        NotImplementedError, match=f"attribute_future is not implemented for {row.method.__name__}"
    ):
        explainer.attribute_future()
    assert row.method.get_name().replace(" ", "") == row.method.__name__
    # Inputs may come in a tuple.
    (in_tuple,) = explainer.attribute((inputs,), target=[1, 2])
    assert torch.equal(in_tuple, explainer.attribute(inputs, target=[1, 2]))
    assert torch.equal(explainer.patch_map((inputs,), target=[1, 2]), explainer.patch_map(inputs, target=[1, 2]))


@every_row
def test_noise_tunnel_smooths_it(row: Row) -> None:
    explainer, inputs = row(small_vit()), images()
    plain = explainer.attribute(inputs, target=1)
    tunnel = NoiseTunnel(explainer)
    still = tunnel.attribute(inputs, nt_type="smoothgrad", nt_samples=2, stdevs=0.0, target=1)
    assert_near(still, plain, 1e-4)
    noisy = tunnel.attribute(inputs, nt_type="smoothgrad", nt_samples=4, stdevs=0.5, target=[0, 1])
    assert noisy.shape == inputs.shape
    assert noisy.isfinite().all()
    assert differs(noisy, plain)


@every_row
def test_captums_metrics_and_figures_take_it(row: Row) -> None:
    model, inputs = small_vit(), images()
    explainer = row(model)
    sensitivity = captum.metrics.sensitivity_max(
        explainer.attribute, inputs, perturb_radius=0.5, n_perturb_samples=2, target=[1, 2]
    )
    assert sensitivity.shape == (2,)
    # This one keeps the evidence for a class, and there may be none.
    assert (sensitivity > 0).all() or row.method is vi.AttentionGradCAM
    attribution = explainer.attribute(inputs, target=1)

    def perturb(batch: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn_like(batch)
        return noise, batch - noise

    infidelity = captum.metrics.infidelity(model, perturb, inputs, attribution, target=1, normalize=True)
    assert infidelity.shape == (2,)
    assert infidelity.isfinite().all()

    strongest = int(attribution.abs().flatten(1).amax(1).argmax())
    pixels = attribution[strongest].permute(1, 2, 0).numpy()
    figure = Figure()
    drawn, _ = captum_figures.visualize_image_attr(
        pixels / np.abs(pixels).max(),  # captum warns of values below 1e-5, which variances of attention are
        sign="all",
        plt_fig_axis=(figure, figure.subplots()),
        use_pyplot=False,
    )
    assert drawn is figure


TARGETS = {
    "int": (3, [3, 3]),
    "negative int": (-1, [4, 4]),
    "numpy int": (np.int64(1), [1, 1]),
    "tensor of no axis": (torch.tensor(3), [3, 3]),
    "tensor of one": (torch.tensor([3]), [3, 3]),
    "one-tuple": ((3,), [3, 3]),
    "tensor": (torch.tensor([1, 2]), [1, 2]),
    "int32 tensor": (torch.tensor([1, 2], dtype=torch.int32), [1, 2]),
    "list of one-tuples": ([(1,), (2,)], [1, 2]),
}


@every_row
def test_targets_in_captums_forms(row: Row) -> None:
    explainer, inputs = row(small_vit()), images()
    expected = {
        classes: explainer.patch_map(inputs, list(classes)) for classes in ((1, 1), (1, 2), (3, 3), (4, 4))
    }
    for name, (target, classes) in TARGETS.items():
        assert torch.equal(explainer.patch_map(inputs, target), expected[tuple(classes)]), name
    # Classes matter to class-specific methods, and only to them.
    assert torch.equal(expected[1, 1], expected[3, 3]) != row.method.class_specific
    if not row.method.class_specific:
        assert torch.equal(explainer.patch_map(inputs), expected[1, 1])


# --- model and input stay unchanged ---


@every_row
def test_the_model_and_the_input_are_unchanged(row: Row) -> None:
    model = lived_in_model()
    inputs = images().requires_grad_()
    kept = inputs.detach().clone()
    before = state_of(model)
    explainer = row(model)
    explainer.attribute(inputs, target=1)
    assert_same_state(before, state_of(model))
    assert inputs.requires_grad
    assert inputs.grad is None
    assert torch.equal(inputs.detach(), kept)
    explainer.attribute(kept, target=1)
    assert not kept.requires_grad
    model.eval()
    with torch.no_grad():
        output = model(kept)
        explainer.patch_map(kept, target=1)
        assert torch.equal(model(kept), output)


@every_row
def test_they_are_unchanged_after_an_exception_in_any_pass(row: Row) -> None:
    model, inputs = lived_in_model(), images()
    kept = inputs.clone()
    passes = (1, 2) if row.method.forwards else (1,)  # the first is the probe's
    for part, number in product(("patch_embed", "blocks.1.norm1", "blocks.1.attn.proj", "norm", "head"), passes):
        left = [number]

        def fail(*_: Any, left: list[int] = left, part: str = part) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt(part)

        handle = model.get_submodule(part).register_forward_hook(fail)
        before = state_of(model)
        with pytest.raises(KeyboardInterrupt, match=part):
            row(model).attribute(inputs, target=1)
        assert_same_state(before, state_of(model))
        assert torch.equal(inputs, kept)
        assert not inputs.requires_grad
        handle.remove()
    assert row(model).patch_map(inputs, target=1).shape == (2, 4, 4)


@every_row
def test_the_model_is_unchanged_after_a_failing_target(row: Row) -> None:
    if not row.method.forwards:
        pytest.skip("does not run the model")
    model = lived_in_model()
    before = state_of(model)

    def failing(_: Any) -> Tensor:
        raise ZeroDivisionError("a failure of the user's own")

    with pytest.raises((IndexError, ZeroDivisionError)):
        row(model).attribute(images(), target=failing if row.method.class_specific else 99)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("name", all_methods())
def test_random_numbers_that_a_model_draws_are_restored(name: str) -> None:
    model, inputs = small_vit(), images()
    drawn: list[Tensor] = []
    # A model that draws random numbers in evaluation too, in the last of its blocks.
    model.blocks[-1].attn.proj.register_forward_hook(lambda *args: drawn.append(torch.randn(1)))
    state = torch.get_rng_state()
    explain(make(all_methods()[name], model), inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn


@every_row
def test_dropout_is_off_even_in_a_training_model(row: Row) -> None:
    training = lived_in_model()
    plain = copy.deepcopy(training).eval()
    assert_near(explain(row(training), images()), explain(row(plain), images()))


@every_row
def test_frozen_parameters_gradient_modes_and_wrappers_make_no_difference(row: Row) -> None:
    model, inputs = small_vit(), images()
    expected = row(model).attribute(inputs, target=1)
    with torch.no_grad():
        assert torch.equal(row(model).attribute(inputs, target=1), expected)
    with torch.inference_mode():
        made_in_inference = inputs.clone()
        assert torch.equal(row(model).attribute(made_in_inference, target=1), expected)
    assert torch.equal(row(model).attribute(made_in_inference, target=1), expected)
    model.requires_grad_(False)
    assert torch.equal(row(model).attribute(inputs, target=1), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert torch.equal(row(wrapped).attribute(inputs, target=1), expected)
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    assert torch.equal(row(model).attribute(inputs, target=1), expected)


@every_row
def test_pooling_heads_in_inference_mode(row: Row) -> None:
    family = FAMILIES["siglip"]
    model, inputs = family.build().requires_grad_(False), family.images()
    expected = row(model).patch_map(inputs, target=1)
    with torch.inference_mode():
        assert torch.equal(row(model).patch_map(inputs, target=1), expected)


@every_row
def test_inputs_need_not_be_contiguous(row: Row) -> None:
    model, inputs = small_vit(), images(3)
    expected = row(model).attribute(inputs, target=1)
    tolerance = tolerance_of(row)
    for strided in (inputs.contiguous(memory_format=torch.channels_last), inputs.mT.contiguous().mT):
        assert not strided.is_contiguous()
        result = row(model).attribute(strided, target=1)
        assert result.is_contiguous()
        assert_near(result, expected, tolerance)


class Tempered(nn.Module):
    """A ViT that takes a factor and an offset of the image."""

    def __init__(self) -> None:
        """Build the ViT."""
        super().__init__()
        self.vit = small_vit()

    def forward(self, image: Tensor, factor: float = 1.0, offset: float = 0.0) -> Tensor:
        """Scale and shift the image, and classify it."""
        result: Tensor = self.vit(image * factor + offset)
        return result


@every_row
def test_further_arguments_reach_the_model(row: Row) -> None:
    if row.method is vi.RandomMap:
        pytest.skip("does not run the model")
    model, inputs = Tempered(), images()
    explainer, plain = row(model), row(model.vit)
    tolerance = tolerance_of(row)
    expected = plain.patch_map(inputs * 3.0, 1)
    assert_near(explainer.patch_map(inputs, 1, additional_forward_args=3.0), expected, tolerance)
    with_both = explainer.attribute(inputs, 1, (3.0, 1.0))
    # An offset has relevance of its own, and moves the zero image where paths begin.
    if not issubclass(row.method, (vi.AttnLRP, PathExplainer)):
        assert_near(with_both, plain.attribute(inputs * 3.0 + 1.0, 1), tolerance)
    assert differs(with_both, plain.attribute(inputs, 1))


# --- precision ---


@every_row
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(row: Row, dtype: torch.dtype) -> None:
    attribution = row(small_vit().to(dtype)).attribute(images().to(dtype), target=1)
    assert attribution.isfinite().all()
    smooth = row.method not in (*JUMPING, vi.RandomMap)
    assert attribution.dtype == (torch.float64 if dtype == torch.float64 and smooth else torch.float32)
    if dtype == torch.float64 and smooth:
        assert_near(attribution.float(), row(small_vit()).attribute(images(), target=1), 1e-4)


# The clusters of TIS jump. Transformer attribution divides by sums near 0. Random maps are drawn from the bytes of the
# image.
@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.method not in (*JUMPING, vi.TransformerAttribution, vi.RandomMap, vi.TIS)],
    ids=lambda row: row.name,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_maps_near_the_float32_ones(row: Row, dtype: torch.dtype) -> None:
    # The scores themselves carry the error of half precision (8 or 11 bits, sharp attention, up to 3 layers), so
    # the maps differ by a few percent of their largest value; the softmax and what follows add nothing to it.
    coarse, fine = (0.15, 0.02) if row.method.backwards else (0.08, 0.01)
    tolerance = coarse if dtype == torch.bfloat16 else fine
    for name in ("vit", "dinov3", "beit", "siglip"):
        if (row.name, name) in REASONS:
            continue
        model, inputs = FAMILIES[name].build(), FAMILIES[name].images()
        expected = row(model).patch_map(inputs, target=1)
        with torch.autocast("cpu", dtype):
            autocast = row(model).patch_map(inputs, target=1)
            assert torch.is_autocast_enabled("cpu")
        half = row(model.to(dtype)).patch_map(inputs.to(dtype), target=1)
        for result in (autocast, half):
            assert result.dtype == torch.float32
            assert result.isfinite().all()
            assert_near(result, expected, tolerance)


forward_only = pytest.mark.parametrize(
    "row",
    [
        row
        for row in ROWS
        if not row.method.class_specific and row.method not in (*JUMPING, vi.AttentionFlow, vi.RandomMap)
    ],
    ids=lambda row: row.name,
)


@forward_only
def test_autocast_leaves_what_is_computed_from_queries_and_keys_in_float32(row: Row) -> None:
    expected = row(small_vit()).patch_map(images())
    with torch.autocast("cpu", torch.bfloat16):
        result = row(small_vit()).patch_map(images())
        pixels = row(small_vit()).attribute(images())
        assert torch.is_autocast_enabled("cpu")
    assert pixels.dtype == torch.float32
    assert_near(result, expected, 0.08)
    assert not torch.equal(result, expected)
    # What is computed from the model's half-precision queries and keys is computed in float32: a map has far more
    # than the 8 bits of bfloat16.
    assert not torch.equal(result, result.bfloat16().float())


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if not row.method.class_specific and row.method not in (vi.AttentionFlow, vi.RandomMap)],
    ids=lambda row: row.name,
)
def test_a_trained_model_is_explained_the_same_alone_and_in_a_batch(
    row: Row, trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    inputs = real_images(2)
    together = row(trained_vit).patch_map(inputs)
    assert together.shape == (2, 14, 14)
    if row.method not in JUMPING:
        alone = torch.cat([row(trained_vit).patch_map(image[None]) for image in inputs])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)
    assert together.flatten(1).std(1).min() > 0


# --- declarations ---

VENUES = (
    "arXiv 2",
    "ACL 2020",
    "CVPR 2021",
    "ECCV 2014",
    "ICCV 2017",
    "ICCV 2021",
    "ICCV Workshops 2023",
    "NeurIPS 2018",
    "TMLR 2023",
    "XAI4Debugging 2021",
)


@every_row
def test_the_declarations_are_there(row: Row) -> None:
    method = row.method
    assert isinstance(method.class_specific, bool)
    assert isinstance(method.needs_attention, bool)
    assert method.more_is_relevant is (method is not vi.ResponsiveFieldSize)
    assert method.quantity
    assert any(venue in method.source for venue in VENUES)


@pytest.mark.parametrize("name", vi.EXPLAINERS)
def test_passes_are_those_declared(name: str) -> None:
    # With the default number of steps: `make` takes fewer.
    method = vi.EXPLAINERS[name]
    options = {"start": 0} if method is vi.TransitionAttention else {}
    options = {"start": 1} if method is vi.BeyondIntuition else options
    # Declared are the costs of 14 x 14 patches, and of channels for all masks.
    size = (224, 224) if method is vi.TokenAblation else (64, 64)
    width = 512 if method is vi.TIS else 32
    model, passes = small_vit(img_size=size, embed_dim=width), {"forward": 0, "backward": 0}

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        passes["forward"] += len(output)
        if output.requires_grad:
            output.register_hook(count_backward)

    def count_backward(gradient: Tensor) -> None:
        passes["backward"] += len(gradient)

    model.register_forward_hook(count)
    explainer = method(model, **options)
    explainer.patch_map(images(1, size), target=1)  # the first call probes the model
    for _ in range(2):
        passes.update(forward=0, backward=0)
        explainer.attribute(images(1, size), target=1)
        assert passes == {"forward": method.forwards, "backward": method.backwards}


# --- unsupported models ---

UNSUPPORTED = {
    "windows": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(1, 1, 1, 1)
    ),
    "no attention": lambda: timm.create_model("test_resnet"),
    "two maps per layer": lambda: timm.create_model("vit_dwee_patch16_reg1_gap_256", img_size=64, depth=1),
}


@pytest.mark.parametrize("build", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_models_without_patch_attention_are_unsupported(build: Any) -> None:
    model = build().eval()
    for row in ROWS:
        if row.method.needs_attention:
            with pytest.raises(vi.UnsupportedModelError):
                row(model).patch_map(torch.randn(1, 3, 64, 64), "pred" if row.method.class_specific else None)
