"""Localization metrics: limits and properties, and Quantus' values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.other_metrics import options, quantus_localization
from tests.helpers.planted import INSIDE, box, planted_case, random_map
from vit_interactions.metrics import METRICS
from vit_interactions.metrics.average_precision import average_precision
from vit_interactions.metrics.energy_in_box import energy_in_box
from vit_interactions.metrics.pointing_game import pointing_game

# The grid pointing game is defined for mosaics only, and has its own tests.
LOCALIZATION = [name for name in METRICS if "object" in METRICS[name].needs and name != "grid_pointing_game"]


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


def test_pointing_game_and_energy_equal_quantus(quantus: Any) -> None:
    for seed in range(20):
        values = random_map((4, 4), seed)
        values = values - values.min()
        expected = quantus_localization(quantus.PointingGame(**options()), values, INSIDE)
        assert pointing_game(values, INSIDE) == float(expected)
        expected = quantus_localization(quantus.RelevanceMassAccuracy(**options()), values, INSIDE)
        assert energy_in_box(values, INSIDE) == pytest.approx(float(expected))
