"""Metrics that perturb the image or the model (infidelity, sensitivity, randomization), and agreement of maps."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.planted import (
    GRID,
    PATCH,
    ask_plainly,
    count_images,
    guessing,
    planted_case,
    planted_map,
    random_map,
    tiny_case,
)
from vit_interactions.attention import UnsupportedModelError
from vit_interactions.metrics import METRICS, agreement, infidelity, randomization, sensitivity
from vit_interactions.metrics.infidelity import draw_subsets
from vit_interactions.metrics.randomization import block_names, parameter_stages, redraw

# Infidelity


def test_infidelity_by_the_definition() -> None:
    """The minimum over beta of the mean of (beta * sum of the map over removed patches - probability drop)²."""
    case, values = tiny_case(), random_map((3, 6), 3)
    removed = draw_subsets(12, (3, 6), 0.3, case.seed)
    full = ask_plainly(case, case.inputs[0])
    sums, falls = [], []
    for subset in removed:
        image = case.inputs[0].clone()
        for row, col in subset.nonzero().tolist():
            image[:, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 0.0
        falls.append(full - ask_plainly(case, image))
        sums.append(float(values[subset].sum()))
    beta = sum(a * b for a, b in zip(sums, falls, strict=True)) / sum(a * a for a in sums)
    expected = sum((beta * a - b) ** 2 for a, b in zip(sums, falls, strict=True)) / 12
    assert infidelity(share=0.3, samples=12).measure(case, values).value == pytest.approx(expected, rel=1e-9)
    for other in (beta * 0.9, beta * 1.1):
        assert expected < sum((other * a - b) ** 2 for a, b in zip(sums, falls, strict=True)) / 12


def test_a_map_and_its_negative_have_the_same_infidelity() -> None:
    """A documented consequence of captum's `normalize=True`: beta may be negative."""
    metric, values = METRICS["infidelity"], planted_map()[0].double()
    assert metric.measure(planted_case(), values).value == pytest.approx(0, abs=1e-15)
    assert metric.measure(planted_case(), -5 * values).value == pytest.approx(0, abs=1e-15)
    assert metric.measure(planted_case(), random_map(GRID, 0)).value > 0.01
    assert "negative" in str(infidelity.__doc__)


def test_subsets_have_one_size_and_are_uniform() -> None:
    subsets = draw_subsets(2000, (3, 4), 0.25, seed=5)
    assert (subsets.sum((1, 2)) == 3).all()
    assert torch.equal(subsets, draw_subsets(2000, (3, 4), 0.25, seed=5))
    assert float((subsets.double().mean(0) - 0.25).abs().max()) < 4 * (0.25 * 0.75 / 2000) ** 0.5
    assert draw_subsets(3, (1, 2), 0.0, seed=0).sum((1, 2)).tolist() == [1, 1, 1]
    assert draw_subsets(3, (1, 2), 1.0, seed=0).sum((1, 2)).tolist() == [1, 1, 1]


def test_methods_share_the_scores_of_infidelity() -> None:
    case = tiny_case()
    sizes = count_images(case.model)
    infidelity(samples=7).measure(case, random_map((3, 6), 1))
    asked = sum(sizes)
    assert asked <= 8
    infidelity(samples=7).measure(tiny_case(model=case.model, scores=case.scores), random_map((3, 6), 2))
    assert sum(sizes) == asked


# Sensitivity


def red_of_patches(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
    return inputs[:, 0].unfold(1, 16, 16).unfold(2, 16, 16).mean((-1, -2))


@pytest.mark.parametrize("samples", [1, 10, 20])
def test_sensitivity_by_the_definition(samples: int) -> None:
    case = tiny_case(explain=red_of_patches, seed=4)
    score = sensitivity(radius=0.5, samples=samples).measure(case, random_map((3, 6), 0)).value
    torch.manual_seed(4)
    moved, done = [], 0
    while done < samples:  # captum draws the noise of one chunk at a time
        count = min(16, samples - done)
        noise = torch.FloatTensor(count, 3, 48, 96).uniform_(-0.5, 0.5).double()
        moved += [red_of_patches(case.model, one.unsqueeze(0), 0)[0] for one in noise]
        done += count
    norm = red_of_patches(case.model, case.inputs, 0).norm()
    assert score == pytest.approx(max(float(one.norm() / norm) for one in moved), rel=1e-5)


def test_a_fixed_map_has_sensitivity_0_and_a_random_one_is_high() -> None:
    same = planted_case(explain=lambda model, inputs, target: planted_map().double().expand(len(inputs), -1, -1))
    assert METRICS["sensitivity"].measure(same, planted_map()[0]).value == 0.0
    assert METRICS["sensitivity"].measure(planted_case(explain=guessing), planted_map()[0]).value > 0.3


def test_sensitivity_runs_class_specific_gradient_methods() -> None:
    asked: list[int] = []

    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        asked.append(target)
        return vi.GMAR(model).patch_map(inputs, target)

    case = tiny_case(explain=explain)
    score = METRICS["sensitivity"].measure(case, random_map((3, 6), 0)).value
    assert 0 < score < 10
    assert set(asked) == {2}


def test_maps_of_the_rerun_method_are_validated() -> None:
    values = planted_map()[0]
    with pytest.raises(ValueError, match=r"`explain` must return maps of shape \(1, 4, 4\), got \(1, 3, 64, 64\)"):
        METRICS["sensitivity"].measure(planted_case(explain=lambda model, inputs, target: inputs), values)
    nothing = planted_case(explain=lambda model, inputs, target: torch.full((len(inputs), 4, 4), float("nan")))
    with pytest.raises(ValueError, match="the method returned NaN or infinite values when it was run again"):
        METRICS["randomization"].measure(nothing, values)
    with pytest.raises(ValueError, match="`radius` must be finite and > 0, got 0"):
        sensitivity(radius=0)
    with pytest.raises(ValueError, match="`samples` must be an int >= 1, got 0"):
        infidelity(samples=0)


# Randomization


def changed(model: nn.Module, original: nn.Module) -> set[str]:
    """Return the top-level modules, and the blocks, with a parameter that differs."""
    names = set()
    for (name, one), other in zip(model.named_parameters(), original.parameters(), strict=True):
        if not torch.equal(one, other):
            parts = name.split(".")
            names.add(".".join(parts[:2]) if parts[0] == "blocks" else parts[0])
    return names


def test_layers_are_redrawn_from_the_head_down_on_a_copy() -> None:
    case = tiny_case()
    before = copy.deepcopy(case.model)
    seen: list[set[str]] = []
    heads: list[Tensor] = []

    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        assert model is not case.model
        seen.append(changed(model, before))
        heads.append(model.get_parameter("head.weight").clone())
        return random_map((3, 6), len(seen)).unsqueeze(0)

    case = tiny_case(model=case.model, explain=explain)
    score = METRICS["randomization"].measure(case, random_map((3, 6), 0))
    assert seen == [{"head"}, {"head", "blocks.1"}, {"head", "blocks.1", "blocks.0"}]
    assert all(torch.equal(one, heads[0]) for one in heads)
    assert changed(case.model, before) == set()
    assert score.curve is not None
    expected = [slow_spearman(random_map((3, 6), 0), random_map((3, 6), index)) for index in (1, 2, 3)]
    assert score.curve[:, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert score.curve[:, 1].tolist() == pytest.approx([1, *expected])
    assert score.value == pytest.approx(sum(map(abs, expected)) / 3)


def test_a_map_of_the_image_only_fails_and_a_map_of_the_weights_passes() -> None:
    def edges(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        return inputs.unfold(2, 16, 16).unfold(3, 16, 16).std((-1, -2)).mean(1)

    def learned(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        weights: Any = model.get_parameter("head.weight")
        return weights[target, :18].reshape(1, 3, 6)

    case = tiny_case(explain=edges)
    assert METRICS["randomization"].measure(case, edges(case.model, case.inputs, 0)[0]).value == 1.0
    case = tiny_case(explain=learned)
    assert METRICS["randomization"].measure(case, learned(case.model, case.inputs, 2)[0]).value < 0.5
    # The random baseline is a function of the image only, so it does not depend on the model.
    case = tiny_case(explain=lambda model, inputs, target: vi.RandomMap(model).patch_map(inputs))
    random_baseline = vi.RandomMap(case.model).patch_map(case.inputs)[0]
    assert METRICS["randomization"].measure(case, random_baseline).value == 1.0


@pytest.mark.filterwarnings("error")
def test_randomization_depends_on_the_seed_only() -> None:
    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        return vi.GMAR(model).patch_map(inputs, target)

    original = vi.GMAR(tiny_case().model).patch_map(tiny_case().inputs, 2)[0]
    scores = [randomization().measure(tiny_case(explain=explain, seed=seed), original).value for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]
    assert 0 <= min(scores) <= max(scores) < 1


def test_a_constant_map_has_correlation_0() -> None:
    case = tiny_case(explain=lambda model, inputs, target: torch.zeros(1, 3, 6))
    assert METRICS["randomization"].measure(case, random_map((3, 6), 0)).value == 0.0


def test_redrawn_parameters_keep_their_mean_and_deviation() -> None:
    parameter = torch.rand(200, 300, dtype=torch.float64) * 3 + 1
    original = parameter.clone()
    redraw(parameter, torch.Generator().manual_seed(1))
    assert float(parameter.mean()) == pytest.approx(float(original.mean()), abs=0.02)
    assert float(parameter.std()) == pytest.approx(float(original.std()), rel=0.02)
    assert abs(spearmanr(parameter.flatten(), original.flatten()).statistic) < 0.02


def test_parameter_stages_are_the_head_and_the_blocks() -> None:
    model = timm.create_model("test_vit3", img_size=64)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        [names[id(parameter)] for parameter in stage]
        for stage in parameter_stages(model, ["blocks.0", "blocks.1", "blocks.2"])
    ]
    assert {name.split(".")[0] for name in found[0]} >= {"head", "attn_pool"}
    assert [{name[:9] for name in stage} for stage in found[1:]] == [{"blocks.2."}, {"blocks.1."}, {"blocks.0."}]
    assert not {"pos_embed", "patch_embed.proj.weight"} & set(itertools.chain(*found))
    assert block_names(["vit.encoder.layer.0.attention", "vit.encoder.layer.10.attention"]) == [
        "vit.encoder.layer.0",
        "vit.encoder.layer.10",
    ]
    with pytest.raises(UnsupportedModelError, match=r"`trunk\.attn` is not in a list of blocks"):
        block_names(["trunk.attn"])


# Rank correlation and agreement


def slow_spearman(first: Tensor, second: Tensor) -> float:
    ranks = []
    for values in (first.flatten().tolist(), second.flatten().tolist()):
        ranks.append(
            [sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]
        )
    mean = (len(ranks[0]) - 1) / 2
    product = sum((a - mean) * (b - mean) for a, b in zip(*ranks, strict=True))
    one, other = (sum((a - mean) ** 2 for a in rank) for rank in ranks)
    return product / (one * other) ** 0.5


@pytest.mark.parametrize("seed", range(4))
def test_agreement_equals_a_loop_and_scipy(seed: int) -> None:
    first, second = (random_map((5, 7), seed) * 8).round(), random_map((5, 7), seed + 50)
    maps = {"first": first, "second": second, "exp": first.exp(), "negative": -first}
    row = agreement({name: values.numpy() for name, values in maps.items()}).loc["first"]
    assert row["second"] == pytest.approx(slow_spearman(first, second), abs=1e-12)
    assert row["second"] == pytest.approx(float(spearmanr(first.flatten(), second.flatten()).statistic))
    assert row["exp"] == pytest.approx(1)
    assert row["negative"] == pytest.approx(-1)


def test_agreement_is_symmetric_and_nan_for_maps_without_ranks() -> None:
    one, other = random_map((3, 4), 0).numpy(), random_map((3, 4), 1).numpy()
    broken = one.copy()
    broken[0, 0] = np.nan
    table = agreement({"one": one, "negative": -one, "other": other, "flat": np.ones((3, 4)), "broken": broken})
    assert list(table.columns) == list(table.index) == ["one", "negative", "other", "flat", "broken"]
    assert table.loc["one", "one"] == pytest.approx(1)
    assert table.loc["one", "negative"] == pytest.approx(-1)
    expected = slow_spearman(torch.from_numpy(one), torch.from_numpy(other))
    assert table.loc["one", "other"] == table.loc["other", "one"] == pytest.approx(expected)
    assert table.loc["negative", "other"] == pytest.approx(-expected)
    assert table[["flat", "broken"]].isna().all().all()
    assert table.loc[["flat", "broken"]].isna().all().all()
    assert agreement({}).empty
    with pytest.raises(ValueError, match="`maps` must have one shape, got"):
        agreement({"one": one, "other": np.ones((2, 2))})


def test_the_planted_map_peaks_at_the_planted_patch() -> None:
    assert int(planted_map()[0].argmax()) == PATCH[0] * 4 + PATCH[1]
