"""Localization metrics against loops, limits and values computed by hand."""

import itertools

import pytest
import torch
from torch import Tensor

from tests.helpers.planted import INSIDE, box, planted_case, random_map
from vit_interactions.metrics import METRICS, iou
from vit_interactions.metrics.average_precision import average_precision
from vit_interactions.metrics.energy_in_box import energy_in_box
from vit_interactions.metrics.iou import intersection_over_union
from vit_interactions.metrics.pointing_game import pointing_game

LOCALIZATION = [name for name in METRICS if "object" in METRICS[name].needs]


@pytest.mark.parametrize("name", LOCALIZATION)
def test_the_object_itself_is_the_best_map_and_its_negative_the_worst(name: str) -> None:
    case = planted_case(inside=INSIDE)
    assert METRICS[name].measure(case, INSIDE.double()).value == 1.0
    worst = METRICS[name].measure(case, -INSIDE.double()).value
    assert worst == (0.25 if name == "average_precision" else 0.0)  # all patches are needed to find the object


@pytest.mark.parametrize("name", LOCALIZATION)
def test_scale_and_shift_of_the_map_do_not_matter(name: str) -> None:
    case, values = planted_case(inside=INSIDE), random_map((4, 4), 6)
    score = METRICS[name].measure(case, values).value
    assert METRICS[name].measure(case, 300 * values - 20).value == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("name", ["pointing_game", "energy_in_box", "average_precision"])
def test_a_random_map_scores_the_fraction_of_the_object(name: str) -> None:
    grid = (14, 14)
    inside = box(slice(2, 9), slice(0, 7), grid)  # a quarter
    measure = {
        "pointing_game": pointing_game,
        "energy_in_box": energy_in_box,
        "average_precision": average_precision,
    }
    scores = [measure[name](random_map(grid, seed), inside) for seed in range(400)]
    assert sum(scores) / 400 == pytest.approx(0.25, abs=0.07 if name == "pointing_game" else 0.03)


@pytest.mark.parametrize("name", LOCALIZATION)
def test_no_object_or_no_patch_on_it_raises(name: str) -> None:
    with pytest.raises(ValueError, match="needs to know where the object is"):
        METRICS[name].measure(planted_case(inside=None), INSIDE.double())
    with pytest.raises(ValueError, match="the object covers no patch"):
        METRICS[name].measure(planted_case(inside=torch.zeros(4, 4, dtype=torch.bool)), INSIDE.double())


@pytest.mark.parametrize("name", LOCALIZATION)
def test_an_object_on_all_patches_is_always_hit(name: str) -> None:
    case, values = planted_case(inside=torch.ones(4, 4, dtype=torch.bool)), random_map((4, 4), 6)
    if name == "iou":
        assert METRICS[name].measure(case, values).value == pytest.approx(
            float((values >= mid(values)).double().mean())
        )
    else:
        assert METRICS[name].measure(case, values).value == pytest.approx(1.0)


def mid(values: Tensor) -> float:
    return float(values.min() + values.max()) / 2


def test_tied_highest_patches_score_a_fraction() -> None:
    values = torch.zeros(4, 4, dtype=torch.float64)
    values[1, 2] = values[0, 0] = values[0, 1] = 7.0
    assert pointing_game(values, INSIDE) == pytest.approx(1 / 3)


def test_energy_by_hand() -> None:
    values = torch.tensor([[-2.0, 0.0], [4.0, 1.0]])  # shifted: 0, 2, 6, 3
    assert energy_in_box(values, torch.tensor([[False, True], [True, False]])) == pytest.approx(8 / 11)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_iou_by_a_loop(threshold: float) -> None:
    values = random_map((4, 4), 8) * 3 - 1
    lowest, highest = float(values.min()), float(values.max())
    both = either = 0
    for row, col in itertools.product(range(4), range(4)):
        high = float(values[row, col]) >= lowest + threshold * (highest - lowest)
        both += high and bool(INSIDE[row, col])
        either += high or bool(INSIDE[row, col])
    assert intersection_over_union(values, INSIDE, threshold) == pytest.approx(both / either)
    assert iou(threshold).measure(planted_case(inside=INSIDE), values).value == pytest.approx(both / either)


def test_iou_thresholds_are_validated() -> None:
    with pytest.raises(ValueError, match=r"`threshold` must lie in \[0, 1\], got 2"):
        iou(2)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_by_a_loop_over_the_values(seed: int) -> None:
    values = (random_map((4, 4), seed) * 6).round()  # with ties
    found, result = 0, 0.0
    for value in sorted(set(values.flatten().tolist()), reverse=True):
        taken = values >= value
        hits = int((taken & INSIDE).sum())
        result += (hits - found) / int(INSIDE.sum()) * hits / int(taken.sum())
        found = hits
    assert average_precision(values, INSIDE) == pytest.approx(result, abs=1e-12)


def test_average_precision_does_not_depend_on_the_order_of_ties() -> None:
    values = torch.zeros(1, 4)
    values[0, 3] = 1.0
    inside = torch.tensor([[True, True, False, False]])
    assert average_precision(values, inside) == pytest.approx(0.5)  # all four to find the two
    assert average_precision(values, inside.flip(1)) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
