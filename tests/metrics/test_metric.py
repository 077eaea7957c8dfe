"""Properties of all metrics."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.planted import (
    GRID,
    PATCH,
    box,
    guessing,
    painted,
    planted_case,
    planted_image,
    planted_map,
    random_map,
    strong_model,
)
from vit_interactions.metrics import (
    DEFAULT_METRICS,
    METRICS,
    Case,
    deletion,
    insertion,
)
from vit_interactions.utilities.choices import METRIC_NAMES

BLUE = (3, 0)


def case_for(name: str, image: Tensor | None = None, **options: Any) -> Case:
    """Build the planted case with what a metric needs: the grid pointing game needs a quadrant as the object."""
    options.setdefault("complete", True)
    if name == "grid_pointing_game":
        options["inside"] = box(slice(0, 2), slice(2, 4))
    return planted_case(image, **options)


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


def ideal(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
    """Return the ideal attribution: the head's weights times the mean color of each patch."""
    parts: Any = model
    means = inputs.unfold(2, 16, 16).unfold(3, 16, 16).mean((-1, -2))
    weights = parts.head.weight[target, :3] - parts.head.weight[1 - target, :3]
    return torch.einsum("bcrk,c->brk", means, weights)


def scene() -> Tensor:
    """Return an image with a red patch for class 1 and a blue patch against it."""
    return painted(planted_image(), BLUE, 2)


# Nearly all values of the planted map are tied, so randomization has its own test. Completeness judges the sum alone,
# and sparseness does not judge.
@pytest.mark.parametrize(
    "name",
    [name for name in METRICS if name not in ("randomization", "completeness_error", "sparseness")],
)
def test_the_ideal_map_beats_every_random_map(name: str) -> None:
    # Blurring hardly changes a patch of one color.
    metric = insertion("mean") if name == "insertion" else METRICS[name]
    perfect = ideal(strong_model(), scene().double(), 1)[0].detach()
    assert int(perfect.argmax()) == PATCH[0] * 4 + PATCH[1]
    best = metric.measure(case_for(name, scene(), explain=ideal), perfect).value
    lowest, highest = metric.range
    sign = {"higher": 1, "lower": -1}[metric.direction]
    others = []
    for seed in range(2 if name == "road" else 8):  # ROAD is slow
        case = case_for(name, scene(), explain=guessing, seed=seed)
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
    assert metric.direction in ("higher", "lower", "none")
    assert metric.range[0] < metric.range[1]
    assert metric.source
    assert metric.cost
    assert metric.parameters
    assert metric.needs <= {"object", "explain", "complete"}
    case = case_for(name, explain=ideal)
    case.model.train()
    before = {key: value.clone() for key, value in case.model.state_dict().items()}
    image, values, state = case.inputs.clone(), random_map(GRID, 3), torch.get_rng_state()
    kept = values.clone()
    first = metric.measure(case, values)
    assert torch.equal(torch.get_rng_state(), state)
    assert metric.measure(case_for(name, explain=ideal), values).value == pytest.approx(first.value, abs=1e-9)
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
    with pytest.raises(
        ValueError, match=r"needs (to know where the object is|to run the method again)|not defined"
    ):
        METRICS[name].measure(case, planted_map()[0])


def test_the_command_line_offers_all_metrics_in_their_order() -> None:
    assert tuple(METRICS) == METRIC_NAMES


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


def test_the_planted_map_peaks_at_the_planted_patch() -> None:
    assert int(planted_map()[0].argmax()) == PATCH[0] * 4 + PATCH[1]
