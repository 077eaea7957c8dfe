"""The metrics' curves against slow loops and values computed by hand, and properties of all metrics."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.planted import (
    GRID,
    PATCH,
    STRENGTH,
    ask_plainly,
    count_images,
    guessing,
    painted,
    planted_case,
    planted_image,
    planted_map,
    random_map,
    sigmoid,
    strong_model,
    tiny_case,
)
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.metrics import DEFAULT_METRICS, METRICS, Case, Metric, abpc, deletion, insertion
from vit_interactions.metrics.baseline import BASELINES, baseline_image
from vit_interactions.metrics.confidence import drop, gain, increase
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.perturbation_curves import (
    area_under_curve,
    deletion_curve,
    insertion_curve,
    patch_counts,
)
from vit_interactions.metrics.pixel_scores import pixel_mask
from vit_interactions.metrics.road import impute, road

BLUE = (3, 0)


# The curves


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("steps", [1, 5, 18, 40])
def test_curves_equal_a_loop_over_patches(baseline: str, steps: int) -> None:
    case = tiny_case()
    values = random_map(case.layout.grid, 1)
    order = sorted(np.ndindex(3, 6), key=lambda place: -float(values[place]))
    nothing = baseline_image(case.inputs, baseline, case.mean, case.std)[0]
    curves: dict[str, list[tuple[float, float]]] = {"deletion": [], "insertion": [], "abpc": []}
    counts = sorted({round(18 * step / steps) for step in range(steps + 1)})
    for count in counts:
        images = {
            "deletion": (case.inputs[0], nothing, order[:count]),
            "insertion": (nothing, case.inputs[0], order[:count]),
            "least": (case.inputs[0], nothing, order[::-1][:count]),
        }
        scores = {}
        for name, (start, other, places) in images.items():
            image = start.clone()
            for row, col in places:
                cell = (slice(None), slice(16 * row, 16 * row + 16), slice(16 * col, 16 * col + 16))
                image[cell] = other[cell]
            scores[name] = ask_plainly(case, image)
        curves["deletion"].append((count / 18, scores["deletion"]))
        curves["insertion"].append((count / 18, scores["insertion"]))
        curves["abpc"].append((count / 18, scores["least"] - scores["deletion"]))
    for kind in (deletion, insertion, abpc):
        metric: Metric = kind(baseline, steps)
        score = metric.measure(case, values)
        assert score.curve is not None
        expected = curves[metric.name]
        torch.testing.assert_close(score.curve, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
        widths = [(after[0] - before[0]) for before, after in itertools.pairwise(expected)]
        heights = [(after[1] + before[1]) / 2 for before, after in itertools.pairwise(expected)]
        assert score.value == pytest.approx(sum(w * h for w, h in zip(widths, heights, strict=True)), abs=1e-12)
    # The effect of the patches is far above the tolerance.
    assert len({round(score, 3) for _, score in curves["deletion"]}) > min(len(counts), 4) - 1


def test_areas_of_the_planted_patch_by_hand() -> None:
    """P = sigmoid(4) if the red patch is shown, and p = 1/2 if it is removed."""
    case, values = planted_case(), planted_map()[0]
    high, low = sigmoid(STRENGTH), 0.5
    assert deletion(steps=16).measure(case, values).value == pytest.approx(low + (high - low) / 32)
    assert insertion("mean", steps=16).measure(case, values).value == pytest.approx(high - (high - low) / 32)
    assert abpc(steps=16).measure(case, values).value == pytest.approx((high - low) * 15 / 16)
    # Black is -2 after normalization, in each channel.
    black = deletion("zero", steps=16).measure(case, values).curve
    assert black is not None
    for removed in (1, 2, 16):
        logits = (STRENGTH / 2 * -2 * removed, STRENGTH * -2 * removed)
        assert float(black[removed, 1]) == pytest.approx(sigmoid(logits[1] - logits[0]))


def test_areas_for_every_rank_of_the_planted_patch() -> None:
    """With the red patch at rank r, the score drops at step r + 1; averaged over ranks, LeRF equals MoRF."""
    high, low = sigmoid(STRENGTH), 0.5
    differences = []
    for rank in range(16):
        case = planted_case()
        values = torch.arange(15, -1, -1, dtype=torch.float64).roll(PATCH[0] * 4 + PATCH[1] - rank).reshape(GRID)
        assert int(relevance_ranks(values, 0)[PATCH]) == rank
        score = deletion(steps=16).measure(case, values).value
        assert score == pytest.approx(low + (high - low) * (rank + 0.5) / 16)
        differences.append(abpc(steps=16).measure(case, values).value)
    assert sum(differences) == pytest.approx(0, abs=1e-9)
    assert differences == sorted(differences, reverse=True)


def test_no_image_is_scored_twice() -> None:
    case = tiny_case()
    sizes, values = count_images(case.model), random_map(case.layout.grid, 1)
    first = deletion(steps=9).measure(case, values)
    assert sum(sizes) == 10
    alone = abpc(steps=9).measure(case, values)
    assert sum(sizes) == 10 + 8
    METRICS["average_drop"].measure(case, values)
    METRICS["average_gain"].measure(case, values)
    assert sum(sizes) == 10 + 8 + 1
    # Another map of the same image and model shares the first and last point.
    other = tiny_case(model=case.model, scores=case.scores)
    deletion(steps=9).measure(other, -values)
    assert sum(sizes) == 19, "the same images: MoRF of the negative map is LeRF"
    deletion(steps=9).measure(other, random_map(case.layout.grid, 7))
    assert sum(sizes) == 19 + 8
    # Cached scores equal recomputed ones.
    assert deletion(steps=9).measure(tiny_case(), values).value == pytest.approx(first.value, abs=1e-12)
    assert abpc(steps=9).measure(tiny_case(), values).value == pytest.approx(alone.value, abs=1e-12)


def test_images_go_through_the_model_in_chunks() -> None:
    case = tiny_case()
    sizes = count_images(case.model)
    insertion(steps=18).measure(case, random_map(case.layout.grid, 1))
    assert sizes == [16, 3]


def test_patch_counts_run_from_none_to_all() -> None:
    for patches in (1, 2, 9, 196):
        for steps in (1, 3, 20, 500):
            counts = patch_counts(patches, steps).tolist()
            assert counts[0] == 0
            assert counts[-1] == patches
            assert counts == sorted(set(counts))
            assert len(counts) == min(patches, steps) + 1
            gaps = {after - before for before, after in itertools.pairwise(counts)}
            assert max(gaps) - min(gaps) <= 1 or steps > patches


def test_a_curve_of_a_known_score() -> None:
    """If the score is the fraction of patches shown, both curves are diagonals."""
    ranks = torch.arange(12).reshape(3, 4)

    def share(shown: Tensor) -> Tensor:
        return shown.flatten(1).double().mean(1)

    assert area_under_curve(deletion_curve(ranks, 5, share)) == pytest.approx(0.5)
    assert area_under_curve(insertion_curve(ranks, 5, share)) == pytest.approx(0.5)
    torch.testing.assert_close(deletion_curve(ranks, 5, share).sum(1), torch.ones(6, dtype=torch.float64))


# Where the patches are


def test_masks_cover_the_pixels_of_their_patches_even_with_padding_or_crop() -> None:
    shown = random_map((3, 2), 0) > 0.5
    shown[0, 0] = False
    for size in ((12, 10), (11, 9), (13, 12)):  # exact, padded by the model, with pixels that no patch covers
        layout = TokenLayout(prefix=1, rows=3, cols=2, readout="token", extent=(12, 10))
        mask = pixel_mask(shown.unsqueeze(0), layout, size)[0]
        assert mask.shape == size
        for y in range(size[0]):
            for x in range(size[1]):
                covered = y < 12 and x < 10
                assert bool(mask[y, x]) == (not covered or bool(shown[y // 4, x // 5])), (size, y, x)


def test_baselines() -> None:
    images = torch.rand(2, 3, 56, 40, dtype=torch.float64)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
    normalized = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    black = baseline_image(normalized, "zero", mean, std)
    raw = black * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close(raw, torch.zeros_like(raw), atol=1e-7, rtol=0)
    assert not baseline_image(normalized, "mean", mean, std).any()
    # One pixel in the middle by the definition of the Gaussian, scaled to the shorter side.
    blurred = baseline_image(normalized, "blur", mean, std)
    sigma = 5 * 40 / 224
    weights = [[math.exp(-(dx * dx + dy * dy) / (2 * sigma**2)) for dx in (-1, 0, 1)] for dy in (-1, 0, 1)]
    total = sum(map(sum, weights))
    expected = sum(
        weights[dy + 1][dx + 1] / total * normalized[1, 2, 20 + dy, 30 + dx]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    )
    assert float(blurred[1, 2, 20, 30]) == pytest.approx(float(expected), abs=1e-7)
    with pytest.raises(ValueError, match="`baseline` must be one of 'blur', 'mean', 'zero', got 'gray'"):
        deletion("gray")


# Drop, increase, gain


def test_confidence_of_the_masked_image_by_a_loop() -> None:
    case = tiny_case()
    values = random_map(case.layout.grid, 1) * 7 - 3
    scaled = ((values - values.min()) / (values.max() - values.min())).numpy()
    weights = np.zeros((48, 96))
    for y in range(48):
        for x in range(96):
            row, col = np.clip((y + 0.5) / 16 - 0.5, 0, 2), np.clip((x + 0.5) / 16 - 0.5, 0, 5)
            top, left = min(int(row), 1), min(int(col), 4)
            dy, dx = row - top, col - left
            upper = scaled[top, left] * (1 - dx) + scaled[top, left + 1] * dx
            lower = scaled[top + 1, left] * (1 - dx) + scaled[top + 1, left + 1] * dx
            weights[y, x] = upper * (1 - dy) + lower * dy
    full = ask_plainly(case, case.inputs[0])
    masked = ask_plainly(case, case.inputs[0] * torch.from_numpy(weights))
    assert abs(full - masked) > 1e-3
    for name, expected in (
        ("average_drop", max(0, full - masked) / full),
        ("average_increase", float(masked > full)),
        ("average_gain", max(0, masked - full) / (1 - full)),
    ):
        assert METRICS[name].measure(case, values).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["average_drop", "average_increase", "average_gain"])
def test_confidence_does_not_depend_on_the_maps_scale(name: str) -> None:
    values = random_map((3, 6), 4)
    score = METRICS[name].measure(tiny_case(), values).value
    assert METRICS[name].measure(tiny_case(), 1000 * values - 5).value == pytest.approx(score, abs=1e-9)


def test_a_probability_of_0_cannot_drop_and_one_of_1_cannot_gain() -> None:
    with pytest.raises(ValueError, match="probability 0 for the whole image"):
        drop(0.0, 0.5)
    with pytest.raises(ValueError, match="probability 1 for the whole image"):
        gain(1.0, 0.5)
    assert increase(1.0, 1.0) == 0.0


# ROAD


def test_imputation_solves_the_neighbor_equations() -> None:
    """Each hidden pixel is the weighted mean of its existing neighbors: 1/6 for edges, 1/12 for corners."""
    image = torch.rand(3, 8, 9, dtype=torch.float64)
    original = image.clone()
    shown = random_map((8, 9), 0) > 0.6
    filled = impute(image, shown, noise=0.0, seed=0)
    assert torch.equal(image, original)
    assert torch.equal(filled[:, shown], image[:, shown])
    for y, x in (~shown).nonzero().tolist():
        total, weights = torch.zeros(3, dtype=torch.float64), 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < 8 and 0 <= x + dx < 9:
                    weight = 1 / 12 if dy and dx else 1 / 6
                    total += weight * filled[:, y + dy, x + dx]
                    weights += weight
        torch.testing.assert_close(filled[:, y, x], total / weights, atol=1e-9, rtol=0)
    noisy = impute(image, shown, noise=0.1, seed=3)
    assert torch.equal(noisy, impute(image, shown, noise=0.1, seed=3))
    assert 0.05 < float((noisy - filled)[:, ~shown].std()) < 0.15


def test_road_by_a_loop() -> None:
    case, values = tiny_case(), random_map((3, 6), 2)
    order = sorted(np.ndindex(3, 6), key=lambda place: -float(values[place]))
    differences = []
    for count in (4, 9):  # 0.2 and 0.5 of 18
        scores = []
        for places in (order[:count], order[::-1][:count]):
            shown = torch.ones(48, 96, dtype=torch.bool)
            for row, col in places:
                shown[16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = False
            scores.append(ask_plainly(case, impute(case.inputs[0], shown, noise=0.01, seed=case.seed)))
        differences.append(scores[1] - scores[0])
    score = road((0.2, 0.5)).measure(case, values)
    assert score.value == pytest.approx(sum(differences) / 4, abs=1e-12)
    assert score.curve is not None
    torch.testing.assert_close(score.curve[:, 0], torch.tensor([4 / 18, 9 / 18], dtype=torch.float64))
    torch.testing.assert_close(
        score.curve[:, 1], torch.tensor(differences, dtype=torch.float64), atol=1e-12, rtol=0
    )


# Maps


def test_ties_are_in_random_order_not_in_reading_order() -> None:
    sparse = torch.zeros(4, 5)
    sparse[3, 4] = 1.0
    ranks = [relevance_ranks(sparse, seed) for seed in range(200)]
    assert all(int(rank[3, 4]) == 0 for rank in ranks)
    assert torch.equal(ranks[0], relevance_ranks(sparse, 0))
    assert not torch.equal(ranks[0], ranks[1])
    mean = torch.stack(ranks).double().mean(0).flatten()[:-1]
    # Each tied patch has mean rank 10, with a deviation of 5.5 / sqrt(200) = 0.39.
    assert float((mean - 10).abs().max()) < 4 * 0.39
    values = random_map((4, 5), 0)
    torch.testing.assert_close(values.flatten().sort(descending=True)[0], values.flatten()[ranks_to_order(values)])


def ranks_to_order(values: Tensor) -> Tensor:
    return relevance_ranks(values, 5).flatten().argsort()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (torch.full(GRID, 0.25), "same value, 0.25, at all 16 patches"),
        (torch.zeros(GRID), "same value, 0, at all 16 patches"),
        (torch.eye(4).log(), "NaN or infinite values at 12 of 16 patches"),
        (torch.full(GRID, float("nan")), "NaN or infinite values at 16 of 16 patches"),
        (torch.rand(4, 5), r"`patch_map` must have shape \(4, 4\), got \(4, 5\)"),
    ],
    ids=["constant", "zeros", "infinite", "nan", "shape"],
)
def test_maps_without_a_score_raise_with_the_reason(name: str, values: Tensor, reason: str) -> None:
    case = planted_case(explain=lambda model, inputs, target: planted_map().expand(len(inputs), -1, -1))
    with pytest.raises(ValueError, match=reason):
        METRICS[name].measure(case, values)


def test_a_checked_map_is_float64() -> None:
    assert check_map(torch.eye(2, dtype=torch.bfloat16), (2, 2)).dtype == torch.float64


# All metrics


def ideal(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
    """Return the ideal attribution: the head's weights times the mean color of each patch."""
    parts: Any = model
    means = inputs.unfold(2, 16, 16).unfold(3, 16, 16).mean((-1, -2))
    weights = parts.head.weight[target, :3] - parts.head.weight[1 - target, :3]
    return torch.einsum("bcrk,c->brk", means, weights)


def scene() -> Tensor:
    """Return an image with a red patch for class 1 and a blue patch against it."""
    return painted(planted_image(), BLUE, 2)


# Nearly all values of the planted map are tied, so randomization has its own test.
@pytest.mark.parametrize("name", [name for name in METRICS if name != "randomization"])
def test_the_ideal_map_beats_every_random_map(name: str) -> None:
    # Blurring hardly changes a patch of one color.
    metric = insertion("mean") if name == "insertion" else METRICS[name]
    perfect = ideal(strong_model(), scene().double(), 1)[0].detach()
    assert int(perfect.argmax()) == PATCH[0] * 4 + PATCH[1]
    best = metric.measure(planted_case(scene(), explain=ideal), perfect).value
    lowest, highest = metric.range
    sign = {"higher": 1, "lower": -1}[metric.direction]
    others = []
    for seed in range(2 if name == "road" else 8):  # ROAD is slow
        case = planted_case(scene(), explain=guessing, seed=seed)
        torch.manual_seed(seed)
        others.append(metric.measure(case, random_map(GRID, seed + 20)).value)
    assert all(lowest - 1e-12 <= value <= highest + 1e-12 for value in (best, *others))
    # A random map sometimes hits the patch or raises the probability by chance.
    assert all(sign * best >= sign * value - 1e-12 for value in others), (best, others)
    assert sign * best > sign * sum(others) / len(others) + 1e-6, (best, others)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_describe_themselves_and_change_nothing(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.direction in ("higher", "lower")
    assert metric.range[0] < metric.range[1]
    assert metric.source
    assert metric.cost
    assert metric.parameters
    assert metric.needs <= {"object", "explain"}
    case = planted_case(explain=ideal)
    case.model.train()
    before = {key: value.clone() for key, value in case.model.state_dict().items()}
    image, values, state = case.inputs.clone(), random_map(GRID, 3), torch.get_rng_state()
    kept = values.clone()
    first = metric.measure(case, values)
    assert torch.equal(torch.get_rng_state(), state)
    assert metric.measure(planted_case(explain=ideal), values).value == pytest.approx(first.value, abs=1e-9)
    assert torch.equal(case.inputs, image)
    assert torch.equal(values, kept)
    assert case.model.training
    assert all(module.training for module in case.model.modules())
    assert all(torch.equal(value, before[key]) for key, value in case.model.state_dict().items())
    assert all(parameter.grad is None for parameter in case.model.parameters())
    if first.curve is not None:
        assert first.curve.dtype == torch.float64
        assert first.curve.shape[1] == 2
        assert float(first.curve[:, 0].min()) >= 0
        assert float(first.curve[:, 0].max()) <= 1


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].needs])
def test_missing_requirements_raise(name: str) -> None:
    case = planted_case(inside=None)
    with pytest.raises(ValueError, match=r"needs (to know where the object is|to run the method again)"):
        METRICS[name].measure(case, planted_map()[0])


def test_default_metrics_do_not_rerun_methods() -> None:
    assert set(DEFAULT_METRICS) <= set(METRICS)
    assert not any("explain" in METRICS[name].needs for name in DEFAULT_METRICS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_in_other_precision(dtype: torch.dtype) -> None:
    case = planted_case(model=strong_model().to(dtype), inputs=scene().to(dtype), explain=ideal)
    exact = planted_case(scene(), explain=ideal)
    values = random_map(GRID, 3)
    for name in ("insertion", "deletion", "token_deletion", "average_drop", "road", "infidelity", "sensitivity"):
        expected = METRICS[name].measure(exact, values).value
        tolerance = 1e-4 if dtype == torch.float32 else 0.05
        assert METRICS[name].measure(case, values).value == pytest.approx(expected, abs=tolerance), name


def test_non_finite_outputs_for_perturbed_images_raise() -> None:
    case = planted_case()
    with torch.no_grad():
        case.model.get_parameter("head.bias")[0] = float("nan")
    with pytest.raises(ValueError, match="output for a perturbed image is not finite"):
        deletion().measure(case, planted_map()[0])


def test_cases_are_validated() -> None:
    with pytest.raises(
        ValueError, match=r"`inputs` must have shape \(1, channels, height, width\), got \(2, 3, 64"
    ):
        planted_case(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="`mean` must have 3 numbers, one per channel, got 1"):
        planted_case(mean=(0.5,))
    with pytest.raises(ValueError, match=r"`inside` must have shape \(4, 4\), got \(2, 2\)"):
        planted_case(inside=torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="`steps` must be an int >= 1, got 0"):
        deletion(steps=0)


def test_pixels_that_no_patch_covers_are_part_of_the_whole_image() -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images.mean((1, 2, 3)) * 5, images.std((1, 2, 3))], 1)

    inputs = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layout = TokenLayout(prefix=0, rows=2, cols=2, readout="avg", extent=(16, 16))
    values = torch.tensor([[0.1, 0.9], [0.4, 0.2]], dtype=torch.float64)
    full = float(Mean()(inputs).softmax(1)[0, 0])
    found = []
    for order in (["average_drop", "deletion"], ["deletion", "average_drop"]):
        case = Case(Mean(), inputs, 0, layout, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        scores = {name: METRICS[name].measure(case, values) for name in order}
        found.append(scores["average_drop"].value)
        assert scores["deletion"].curve is not None
        assert float(scores["deletion"].curve[0, 1]) == pytest.approx(full, abs=1e-12)
    assert found[0] == found[1]
