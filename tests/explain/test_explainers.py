"""The conformance table, every explainer on every family; then each explainer against its equation."""

import copy
import math
from collections.abc import Callable
from typing import Any

import captum
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.attr import visualization as captum_figures
from matplotlib.figure import Figure
from torch import Tensor, nn

from tests.helpers import references
from tests.helpers.explaining import (
    FORWARD_ONLY,
    assert_near,
    assert_same_state,
    differs,
    images,
    lived_in_model,
    small_vit,
    state_of,
)
from tests.helpers.families import CLASSES, Family
from vit_interactions import (
    EXPLAINERS,
    AttentionRollout,
    Explainer,
    IndiscriminativePatches,
    InteractionUncertainty,
    RawAttention,
    ResponsiveFieldSize,
    ResponsiveFieldTendency,
    ZeroMapWarning,
    interaction_curve,
    record_attention,
    responsive_field,
)
from vit_interactions.functional import adaptive_windows, column_variance, uncertainty, window_operations

every_explainer = pytest.mark.parametrize("explainer", FORWARD_ONLY, ids=lambda explainer: explainer.__name__)

# Maps that are counted or thresholded jump when U changes in its last digit; the others follow smoothly.
SMOOTH = [InteractionUncertainty, IndiscriminativePatches, RawAttention, AttentionRollout]
smooth_explainers = pytest.mark.parametrize("explainer", SMOOTH, ids=lambda explainer: explainer.__name__)


# --- the table ---


@every_explainer
def test_maps_have_their_shapes(explainer: type[Explainer], family: Family) -> None:
    model, inputs = family.build(), family.images()
    explaining = explainer(model)
    patch_map = explaining.patch_map(inputs)
    assert patch_map.shape == (2, *family.grid)
    assert patch_map.isfinite().all()
    # Different patches and different images are told apart.
    assert patch_map.flatten(1).std(1).min() > 0
    assert not torch.equal(patch_map[0], patch_map[1])

    attribution = explaining.attribute(inputs)
    assert isinstance(attribution, Tensor)
    assert attribution.shape == inputs.shape
    assert attribution.dtype == patch_map.dtype == torch.float32
    assert attribution.device == inputs.device
    assert attribution.is_contiguous()
    assert not attribution.requires_grad
    assert attribution.isfinite().all()
    (in_tuple,) = explaining.attribute((inputs,))
    assert torch.equal(in_tuple, attribution)
    assert torch.equal(explaining.patch_map((inputs,)), patch_map)


@every_explainer
def test_a_batch_equals_one_by_one_and_twice_equals_once(explainer: type[Explainer], family: Family) -> None:
    model, inputs = family.build(), family.images(batch=3)
    explaining = explainer(model)
    together = explaining.patch_map(inputs)
    assert torch.equal(explaining.patch_map(inputs), together)
    assert torch.equal(explainer(model).patch_map(inputs), together)
    alone = torch.cat([explaining.patch_map(image[None]) for image in inputs])
    assert_near(alone, together)


@every_explainer
def test_fused_and_unfused_models_have_the_same_map(explainer: type[Explainer], family: Family) -> None:
    model, inputs = family.build(), family.images()
    fused = explainer(model).patch_map(inputs)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    assert_near(explainer(model).patch_map(inputs), fused)


def test_attribute_is_the_patch_map_resized_bilinearly(family: Family) -> None:
    explaining, inputs = RawAttention(family.build()), family.images(batch=1)
    resized = references.bilinear(explaining.patch_map(inputs)[0].tolist(), family.extent)
    height, width = family.size
    for channel in explaining.attribute(inputs)[0]:
        torch.testing.assert_close(channel.double(), resized[:height, :width], rtol=1e-4, atol=1e-6)


# --- borrowing ---


@every_explainer
def test_the_model_and_the_input_are_given_back_as_they_were(explainer: type[Explainer]) -> None:
    model = lived_in_model()
    inputs = images().requires_grad_()
    kept = inputs.detach().clone()
    before = state_of(model)
    explaining = explainer(model)
    explaining.attribute(inputs, target=1)
    assert_same_state(before, state_of(model))
    assert inputs.requires_grad
    assert inputs.grad is None
    assert torch.equal(inputs.detach(), kept)
    model.eval()
    with torch.no_grad():
        output = model(kept)
        explaining.patch_map(kept)
        assert torch.equal(model(kept), output)


@every_explainer
@pytest.mark.parametrize("where", ["patch_embed", "blocks.1.attn.proj", "head"])
def test_they_are_given_back_after_an_exception_too(explainer: type[Explainer], where: str) -> None:
    model = lived_in_model()
    inputs = images()
    kept = inputs.clone()
    switch = {"on": True}

    def fail(*_: Any) -> None:
        if switch["on"]:
            raise KeyboardInterrupt(where)

    model.get_submodule(where).register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt, match=where):
        explainer(model).attribute(inputs)
    assert_same_state(before, state_of(model))
    assert torch.equal(inputs, kept)
    assert not inputs.requires_grad
    switch["on"] = False
    assert explainer(model).patch_map(inputs).shape == (2, 4, 4)


@every_explainer
def test_dropout_takes_no_part_even_in_a_training_model(explainer: type[Explainer]) -> None:
    training = lived_in_model()
    plain = copy.deepcopy(training).eval()
    assert_near(explainer(training).patch_map(images()), explainer(plain).patch_map(images()))


@every_explainer
def test_frozen_parameters_and_gradient_modes_make_no_difference(explainer: type[Explainer]) -> None:
    model, inputs = small_vit(), images()
    expected = explainer(model).attribute(inputs)
    with torch.no_grad():
        assert torch.equal(explainer(model).attribute(inputs), expected)
    with torch.inference_mode():
        made_in_inference = inputs.clone()
        assert torch.equal(explainer(model).attribute(made_in_inference), expected)
    assert torch.equal(explainer(model).attribute(made_in_inference), expected)
    model.requires_grad_(False)
    assert torch.equal(explainer(model).attribute(inputs), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@every_explainer
def test_inputs_need_not_be_contiguous(explainer: type[Explainer]) -> None:
    model, inputs = small_vit(), images(3)
    expected = explainer(model).attribute(inputs)
    for strided in (inputs.contiguous(memory_format=torch.channels_last), inputs.mT.contiguous().mT):
        assert not strided.is_contiguous()
        result = explainer(model).attribute(strided)
        assert result.is_contiguous()
        assert_near(result, expected)


@every_explainer
def test_one_forward_pass_as_declared(explainer: type[Explainer]) -> None:
    model = small_vit()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    explainer(model).attribute(images(), target=2)
    assert len(passes) == 1 + explainer.forwards  # the probe's comes first, once
    explainer(model).attribute(images(), target=2)
    assert len(passes) == 1 + 2 * explainer.forwards
    assert explainer.backwards == 0


@every_explainer
def test_further_arguments_reach_the_model(explainer: type[Explainer]) -> None:
    class Tempered(nn.Module):
        """Takes a factor and an offset of the image."""

        def __init__(self) -> None:
            super().__init__()
            self.vit = small_vit()

        def forward(self, image: Tensor, factor: float = 1.0, offset: float = 0.0) -> Tensor:
            return self.vit(image * factor + offset)

    model, inputs = Tempered(), images()
    explaining = explainer(model)
    plain = explainer(model.vit)
    assert_near(explaining.patch_map(inputs, additional_forward_args=3.0), plain.patch_map(inputs * 3.0))
    with_both = explaining.attribute(inputs, None, (3.0, 1.0))
    assert_near(with_both, plain.attribute(inputs * 3.0 + 1.0))
    assert differs(with_both, plain.attribute(inputs))


@every_explainer
def test_compiled_and_parallel_wrappers_make_no_difference(explainer: type[Explainer]) -> None:
    model, inputs = small_vit(), images()
    expected = explainer(model).patch_map(inputs)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert torch.equal(explainer(wrapped).patch_map(inputs), expected)


# --- precision ---


@smooth_explainers
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)])
def test_half_precision_models_give_float32_maps_near_the_float32_models(
    explainer: type[Explainer], dtype: torch.dtype, tolerance: float, families: dict[str, Family]
) -> None:
    # The scores themselves carry the error of half precision (8 or 11 bits, sharp attention, up to 3 layers), so
    # the maps differ by some per cent of their largest value; the softmax and what follows add nothing to it.
    for name in ("vit", "dinov3", "beit", "siglip"):
        family = families[name]
        expected = explainer(family.build()).patch_map(family.images())
        inputs = family.images().to(dtype)
        result = explainer(family.build().to(dtype)).attribute(inputs)
        assert result.dtype == torch.float32
        patch_map = explainer(family.build().to(dtype)).patch_map(inputs)
        assert patch_map.isfinite().all()
        assert_near(patch_map, expected, tolerance)


@pytest.mark.parametrize("explainer", [ResponsiveFieldSize, ResponsiveFieldTendency])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fields_of_half_precision_models_are_fields(explainer: type[Explainer], dtype: torch.dtype) -> None:
    # Thresholds jump, so all that can be promised is a valid field.
    patch_map = explainer(small_vit().to(dtype)).patch_map(images().to(dtype))
    assert patch_map.dtype == torch.float32
    assert patch_map.isfinite().all()
    sizes = ResponsiveFieldSize(small_vit().to(dtype)).patch_map(images().to(dtype))
    assert ((sizes >= 1) & (sizes <= 16) & (sizes == sizes.round())).all()


@smooth_explainers
def test_float64_models_give_float64_maps(explainer: type[Explainer]) -> None:
    result = explainer(small_vit().double()).attribute(images().double())
    assert result.dtype == torch.float64
    expected = explainer(small_vit()).attribute(images())
    assert_near(result.float(), expected, 1e-4)


@smooth_explainers
def test_autocast_gives_float32_maps_near_the_float32_ones(explainer: type[Explainer]) -> None:
    expected = explainer(small_vit()).patch_map(images())
    with torch.autocast("cpu", torch.bfloat16):
        result = explainer(small_vit()).patch_map(images())
        pixels = explainer(small_vit()).attribute(images())
        assert torch.is_autocast_enabled("cpu")
    assert pixels.dtype == torch.float32
    assert_near(result, expected, 0.08)
    assert not torch.equal(result, expected)
    # What is computed from the model's half-precision queries and keys is computed in float32: a map has far more
    # than the 8 bits of bfloat16.
    assert not torch.equal(result, result.bfloat16().float())


# --- captum ---


@every_explainer
def test_noise_tunnel_smooths_it(explainer: type[Explainer]) -> None:
    explaining, inputs = explainer(small_vit()), images()
    plain = explaining.attribute(inputs)
    tunnel = NoiseTunnel(explaining)
    still = tunnel.attribute(inputs, nt_type="smoothgrad", nt_samples=2, stdevs=0.0, target=1)
    assert_near(still, plain, 1e-4)
    noisy = tunnel.attribute(inputs, nt_type="smoothgrad", nt_samples=4, stdevs=0.5, target=[0, 1])
    assert noisy.shape == inputs.shape
    assert differs(noisy, plain)


@every_explainer
def test_captums_metrics_measure_it(explainer: type[Explainer]) -> None:
    model, inputs = small_vit(), images()
    explaining = explainer(model)
    sensitivity = captum.metrics.sensitivity_max(
        explaining.attribute, inputs, perturb_radius=0.5, n_perturb_samples=2, target=[1, 2]
    )
    assert sensitivity.shape == (2,)
    assert (sensitivity > 0).all()
    attribution = explaining.attribute(inputs)

    def perturb(batch: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn_like(batch)
        return noise, batch - noise

    infidelity = captum.metrics.infidelity(model, perturb, inputs, attribution, target=1, normalize=True)
    assert infidelity.shape == (2,)
    assert infidelity.isfinite().all()


@every_explainer
def test_captum_names_and_draws_it(explainer: type[Explainer]) -> None:
    attribution = explainer(small_vit()).attribute(images(1))[0].permute(1, 2, 0).numpy()
    # captum warns of values below 1e-5, which variances of attention are.
    attribution = attribution / np.abs(attribution).max()
    figure = Figure()
    drawn, _ = captum_figures.visualize_image_attr(
        attribution, sign="all", plt_fig_axis=(figure, figure.subplots()), use_pyplot=False
    )
    assert drawn is figure
    assert explainer.get_name().replace(" ", "") == explainer.__name__


@every_explainer
def test_it_is_a_captum_attribution(explainer: type[Explainer]) -> None:
    explaining = explainer(small_vit())
    assert isinstance(explaining, captum.attr.Attribution)
    assert explaining.forward_func is explaining.model
    assert not explaining.has_convergence_delta()
    assert not explaining.multiplies_by_inputs
    with pytest.raises(NotImplementedError, match=f"attribute_future is not implemented for {explainer.__name__}"):
        explaining.attribute_future()


TARGETS = {
    "none": None,
    "int": 3,
    "negative int": -1,
    "numpy int": np.int64(1),
    "tensor of no axis": torch.tensor(3),
    "tensor of one": torch.tensor([3]),
    "one-tuple": (3,),
    "tensor": torch.tensor([1, 2]),
    "int32 tensor": torch.tensor([1, 2], dtype=torch.int32),
    "list": [1, 2],
    "list of one-tuples": [(1,), (2,)],
}


@every_explainer
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_targets_in_captums_forms_change_nothing_for_what_is_not_class_specific(
    explainer: type[Explainer], target: Any
) -> None:
    explaining = explainer(small_vit())
    assert not explainer.class_specific
    assert torch.equal(explaining.attribute(images(), target), explaining.attribute(images()))


@pytest.mark.parametrize(
    "target", [t for t in TARGETS.values() if t is not None], ids=[n for n in TARGETS if n != "none"]
)
def test_targets_pick_what_captum_picks(target: Any) -> None:
    from captum._utils.common import _select_targets

    from vit_interactions.explain.targets import select_target

    output = torch.randn(2, CLASSES)
    expected = _select_targets(output, int(target) if isinstance(target, np.integer) else target)
    assert torch.equal(select_target(output, target), expected)


@every_explainer
def test_the_declarations_are_there(explainer: type[Explainer]) -> None:
    assert explainer.class_specific is False
    assert explainer.forwards == 1
    assert explainer.backwards == 0
    assert explainer.more_is_relevant is (explainer is not ResponsiveFieldSize)
    assert any(paper in explainer.source for paper in ("arXiv 2203.05922", "ACL 2020", "ICCV 2021"))


def test_names_are_the_class_names_in_snake_case() -> None:
    for name, explainer in EXPLAINERS.items():
        assert name.replace("_", "") == explainer.__name__.lower()
        assert name == name.lower()
    assert set(EXPLAINERS) >= {
        "interaction_uncertainty",
        "responsive_field_size",
        "responsive_field_tendency",
        "indiscriminative_patches",
        "raw_attention",
        "attention_rollout",
    }


# --- each method against its equation ---


def observed(family: Family) -> tuple[nn.Module, Tensor, list[Tensor], Tensor]:
    """A family's model, images, float64 attention of every layer, and readout row, the pool's where it has one."""
    model, inputs = family.build(), family.images()
    with torch.no_grad(), record_attention(model) as record:
        model(inputs)
    attentions = [call.attention().double() for call in record.calls]
    if family.readout == "map":
        pool = record.pool_calls[0].attention().double()
        readout = torch.zeros(2, family.tokens).double()
        readout[:, family.tokens - pool.shape[-1] :] = (
            sum(pool[:, head, 0] for head in range(pool.shape[1])) / pool.shape[1]
        )
    else:
        readout = torch.zeros(2, family.tokens).double()
        read = {
            "token": [0],
            "distilled": [0, 1],
            "avg": list(range(0 if family.pool_prefix else family.prefix, family.tokens)),
        }[family.readout]
        for token in read:
            readout[:, token] = 1 / len(read)
    return model, inputs, attentions, readout


def test_interaction_uncertainty_is_the_equation_on_the_models_attention(family: Family) -> None:
    model, inputs, attentions, _ = observed(family)
    explaining = InteractionUncertainty(model)
    result = explaining.uncertainty(inputs)
    expected = references.uncertainty(attentions, family.prefix)
    torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=1e-8)
    assert expected.max() > 1e-4
    assert torch.equal(result, explaining.uncertainty((inputs,)))
    torch.testing.assert_close(
        result, uncertainty([a.float() for a in attentions], family.prefix), rtol=1e-3, atol=1e-8
    )

    rows, cols = family.grid
    for patch in ((0, 0), (rows - 1, 1), (1, cols - 1)):
        row = explaining.patch_map(inputs, patch=patch)
        assert torch.equal(row.flatten(1), result[:, patch[0] * cols + patch[1]])
        assert row.shape == (2, rows, cols)
        assert explaining.attribute(inputs, patch=patch).shape == inputs.shape
    columns = [[[row[i] for row in image] for i in range(rows * cols)] for image in expected.tolist()]
    for explainer, value in (
        (InteractionUncertainty, lambda column: sum(column) / len(column)),
        (IndiscriminativePatches, references.variance),
    ):
        patch_map = explainer(model).patch_map(inputs).flatten(1).double()
        wanted = [[value(column) for column in image] for image in columns]
        torch.testing.assert_close(patch_map, torch.tensor(wanted).double(), rtol=1e-3, atol=1e-8)


def test_streaming_in_small_blocks_changes_nothing(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = family.build(), family.images()
    whole = InteractionUncertainty(model).uncertainty(inputs)
    monkeypatch.setattr("vit_interactions.functional.attention.CPU_BLOCK_ELEMENTS", 50)
    torch.testing.assert_close(InteractionUncertainty(model).uncertainty(inputs), whole, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.2), (0.03, 0.5)])
def test_field_explainers_are_the_equations_on_u(family: Family, alpha: float, beta: float) -> None:
    model, inputs = family.build(), family.images()
    values = InteractionUncertainty(model).uncertainty(inputs)
    rows, cols = family.grid
    sizes = ResponsiveFieldSize(model, alpha, beta)
    tendencies = ResponsiveFieldTendency(model, alpha, beta)
    arrows, meet = tendencies.tendency(inputs), tendencies.patch_map(inputs)
    assert arrows.shape == (2, rows, cols, 2)
    gone = IndiscriminativePatches(model).dropped(inputs, beta=beta)
    assert gone.shape == (2, rows, cols)
    for b, image in enumerate(values.double().tolist()):
        fields = references.fields(image, family.grid, alpha, beta)
        assert sizes.patch_map(inputs)[b].flatten().tolist() == [len(field) for field in fields]
        as_sets = [set(row.nonzero().flatten().tolist()) for row in sizes.field(inputs).mask[b]]
        assert as_sets == fields
        assert set(gone[b].flatten().nonzero().flatten().tolist()) == references.dropped(image, beta)
        expected = torch.tensor([references.tendency(p, field, cols) for p, field in enumerate(fields)])
        torch.testing.assert_close(arrows[b].flatten(0, 1), expected, rtol=0, atol=1e-6)
        arrow = expected.view(rows, cols, 2).tolist()
        for y in range(rows):
            for x in range(cols):
                convergence = -(
                    slope([arrow[y][i][0] for i in range(cols)], x)
                    + slope([arrow[j][x][1] for j in range(rows)], y)
                )
                assert math.isclose(meet[b, y, x].item(), convergence, abs_tol=1e-5)


def slope(values: list[float], at: int) -> float:
    """Central difference inside, one-sided at the ends."""
    low, high = max(at - 1, 0), min(at + 1, len(values) - 1)
    return (values[high] - values[low]) / (high - low)


def test_convergence_of_a_single_row_has_no_slope_across_it() -> None:
    from vit_interactions.explain.responsive_field_tendency import convergence

    arrows = torch.tensor([[[[1.0, 0.5], [0.0, 0.5], [-1.0, 0.5]]]])
    assert convergence(arrows).tolist() == [[[1.0, 1.0, 1.0]]]
    assert convergence(arrows.transpose(1, 2).flip(-1)).tolist() == [[[1.0], [1.0], [1.0]]]
    assert convergence(-arrows).tolist() == [[[-1.0, -1.0, -1.0]]]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_raw_attention_is_the_readouts_row_of_each_layer(family: Family, fusion: Any) -> None:
    model, inputs, attentions, readout = observed(family)
    fuse = {"mean": lambda heads: sum(heads) / len(heads), "max": max, "min": min}[fusion]
    for layer in (*range(family.layers), *range(-family.layers, 0)):
        result = RawAttention(model, layer=layer, fusion=fusion).patch_map(inputs).flatten(1)
        attention = attentions[layer].tolist()
        for b in range(2):
            read = [(token, share) for token, share in enumerate(readout[b].tolist()) if share]
            for patch in (0, 3, family.tokens - family.prefix - 1):
                key = family.prefix + patch
                expected = sum(
                    share * fuse([attention[b][head][token][key] for head in range(family.heads)])
                    for token, share in read
                )
                assert math.isclose(result[b, patch].item(), expected, rel_tol=1e-4, abs_tol=1e-6)
    default = RawAttention(model).patch_map(inputs)
    assert torch.equal(default, RawAttention(model, layer=family.layers - 1).patch_map(inputs))
    assert not torch.allclose(default, RawAttention(model, layer=0).patch_map(inputs), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": "max"},
        {"fusion": "min"},
        {"discard": 0.3},
        {"alpha": 0.0},
        {"alpha": 2.5},
        {"start_layer": 1},
        {"fusion": "max", "discard": 0.5, "alpha": 0.5},
    ],
    ids=str,
)
def test_rollout_is_the_product_of_whole_matrices(family: Family, options: dict[str, Any]) -> None:
    model, inputs, attentions, readout = observed(family)
    has_class_token = family.readout in ("token", "distilled")
    fused = []
    for attention in attentions[options.get("start_layer", 0) :]:
        heads = attention.unbind(1)
        matrix = {
            "mean": lambda heads=heads: sum(heads) / len(heads),
            "max": lambda heads=heads: torch.stack(heads).max(0).values,
            "min": lambda heads=heads: torch.stack(heads).min(0).values,
        }[options.get("fusion", "mean")]().clone()
        for b in range(2):
            flat = matrix[b].view(-1)
            order = sorted(range(len(flat)), key=lambda i: flat[i].item())
            for i in order[: int(options.get("discard", 0.0) * len(flat))]:
                if i or not has_class_token:
                    flat[i] = 0.0
        fused.append(matrix)
    whole = references.rollout(fused, options.get("alpha", 1.0))
    expected = (readout.unsqueeze(1) @ whole).squeeze(1)[:, family.prefix :]
    result = AttentionRollout(model, **options).patch_map(inputs).flatten(1)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-6)


def test_maps_of_a_model_that_attends_uniformly() -> None:
    model = small_vit(depth=3)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:64] = 0.0  # queries and keys
            block.attn.qkv.bias[:64] = 0.0
    assert InteractionUncertainty(model).uncertainty(images()).eq(0).all()
    torch.testing.assert_close(RawAttention(model).patch_map(images()), torch.full((2, 4, 4), 1 / 17))
    torch.testing.assert_close(
        AttentionRollout(model).patch_map(images()), torch.full((2, 4, 4), (1 - 2.0**-3) / 17)
    )
    with pytest.warns(ZeroMapWarning, match="ResponsiveFieldTendency found nothing in images 0, 1"):
        assert ResponsiveFieldTendency(model, alpha=0.0).patch_map(images()).eq(0).all()


# --- the curve of interactions ---


def test_interaction_curve_counts_windows_one_by_one(families: dict[str, Family]) -> None:
    for name in ("vit", "non_square", "siglip"):
        family = families[name]
        model, inputs = family.build(), family.images(batch=3)
        alphas = (0.02, 0.1, 0.5, 1.0)
        curve = interaction_curve(model, inputs, alphas)
        patches = family.grid[0] * family.grid[1]
        assert curve.alphas == alphas
        assert curve.pairs == patches**2
        assert curve.operations.shape == (3, 4)
        for b in range(3):
            values = InteractionUncertainty(model).uncertainty(inputs[b : b + 1])
            for a, alpha in enumerate(alphas):
                members = references.candidates(values[0].tolist(), alpha)
                expected = references.operations([references.window(m, family.grid[1]) for m in members])
                assert curve.operations[b, a] == expected
                assert window_operations(adaptive_windows(values, family.grid, alpha)).item() == expected
        assert curve.operations[:, -1].eq(patches**2).all()
        assert curve.expected.dtype == torch.float64
        assert curve.expected.tolist() == [sum(column) / 3 for column in curve.operations.T.tolist()]


def test_interaction_curve_with_beta_counts_fields() -> None:
    model, inputs = small_vit(), images()
    curve = interaction_curve(model, inputs, (0.05, 0.3), beta=0.25)
    values = InteractionUncertainty(model).uncertainty(inputs)
    for a, alpha in enumerate((0.05, 0.3)):
        expected = [
            sum(len(field) for field in references.fields(image, (4, 4), alpha, 0.25)) for image in values.tolist()
        ]
        assert curve.operations[:, a].tolist() == expected
        assert responsive_field(values, (4, 4), alpha, 0.25).operations.tolist() == expected
    assert (curve.operations < interaction_curve(model, inputs, (0.05, 0.3)).operations).all()


def test_interaction_curve_takes_any_iterable_of_batches() -> None:
    model, inputs = small_vit(), images(5)
    whole = interaction_curve(model, inputs)
    assert whole.alphas == (0.025, 0.05, 0.10, 0.20, 0.50, 1.0)
    for batches in (list(inputs.split(2)), (batch for batch in inputs.split(3)), tuple(inputs.split(1))):
        assert torch.equal(interaction_curve(model, batches).operations, whole.operations)


# --- a trained model ---


def test_operations_of_a_trained_model_are_near_those_measured_before(
    trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    alphas = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
    curve = interaction_curve(trained_vit, real_images(20).split(5), alphas)
    expected = dict(zip(alphas, curve.expected.tolist(), strict=True))
    assert curve.expected.diff().ge(0).all()
    assert expected[1.0] == 38_416
    # patch_interactions.md, section 8: other 20 images. Near saturation the choice hardly matters; where the
    # windows begin to close it does.
    assert 38_400 <= expected[0.5] <= 38_416
    assert expected[0.2] == pytest.approx(38_404, rel=0.01)
    assert expected[0.1] == pytest.approx(38_038, rel=0.05)
    assert expected[0.05] == pytest.approx(29_573, rel=0.25)
    assert expected[0.025] == pytest.approx(5_884, rel=0.5)


@every_explainer
def test_a_trained_model_is_explained_the_same_alone_and_in_a_batch(
    explainer: type[Explainer], trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    inputs = real_images(2)
    together = explainer(trained_vit).patch_map(inputs)
    assert together.shape == (2, 14, 14)
    if explainer in SMOOTH:
        alone = torch.cat([explainer(trained_vit).patch_map(image[None]) for image in inputs])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)
    assert together.flatten(1).std(1).min() > 0


def test_column_variance_of_a_trained_model_is_the_variance_of_the_columns_of_u(
    trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    inputs = real_images(2)
    with torch.no_grad(), record_attention(trained_vit) as record:
        trained_vit(inputs)
    whole = torch.stack([call.attention().double() for call in record.calls])[..., 1:, 1:]
    expected = whole.var(0, correction=0).var(1, correction=0)
    values = InteractionUncertainty(trained_vit).uncertainty(inputs)
    torch.testing.assert_close(values.double(), expected, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(
        column_variance(values).double(), expected.var(1, correction=0), rtol=1e-3, atol=1e-12
    )
