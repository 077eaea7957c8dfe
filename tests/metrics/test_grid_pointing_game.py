"""The grid pointing game by hand, for perfect and random maps, and against Quantus."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.other_metrics import options, quantus_localization
from tests.helpers.planted import box, planted_case, random_map
from vit_interactions.metrics import METRICS
from vit_interactions.metrics.grid_pointing_game import grid_pointing_game

QUADRANTS = [box(rows, cols) for rows in (slice(0, 2), slice(2, 4)) for cols in (slice(0, 2), slice(2, 4))]


def test_the_share_by_hand() -> None:
    values = torch.tensor(
        [[1.0, 2.0, -9.0, 0.5], [3.0, 0.0, 1.5, 0.0], [0.0, 2.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]
    )
    shares = [grid_pointing_game(values, inside) for inside in QUADRANTS]
    assert shares == pytest.approx([6 / 10, 2 / 10, 2 / 10, 0.0])


@pytest.mark.parametrize("inside", QUADRANTS)
def test_the_quadrant_itself_is_perfect_and_a_random_map_scores_a_quarter(inside: Tensor) -> None:
    metric, case = METRICS["grid_pointing_game"], planted_case(inside=inside)
    assert metric.measure(case, inside.double()).value == 1.0
    assert metric.measure(case, inside.double() - 5 * (~inside).double()).value == 1.0  # negative does not count
    assert metric.measure(case, (~inside).double()).value == 0.0
    scores = [metric.measure(case, random_map((4, 4), seed)).value for seed in range(200)]
    assert sum(scores) / 200 == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    "inside",
    [
        box(slice(1, 3), slice(0, 2)),
        box(slice(0, 2), slice(1, 3)),
        box(slice(0, 3), slice(0, 2)),
        box(slice(0, 1), slice(0, 1)),
        box(slice(0, 4), slice(0, 4)),
        box(slice(0, 2), slice(0, 2)) ^ box(slice(1, 2), slice(1, 2)),
    ],
    ids=["lower", "to the right", "higher", "a patch", "all", "with a hole"],
)
def test_images_that_are_no_mosaics_raise(inside: Tensor) -> None:
    with pytest.raises(ValueError, match="must fill exactly one quadrant"):
        METRICS["grid_pointing_game"].measure(planted_case(inside=inside), random_map((4, 4), 0))


def test_the_middle_of_an_odd_grid_may_count_or_not() -> None:
    values = random_map((5, 7), 1)
    for rows, cols in ((2, 3), (3, 4), (2, 4)):
        inside = box(slice(0, rows), slice(7 - cols, 7), (5, 7))
        assert grid_pointing_game(values, inside) == pytest.approx(
            float(values[:rows, 7 - cols :].sum() / values.sum())
        )


def test_a_map_without_positive_values_raises() -> None:
    with pytest.raises(ValueError, match="no positive value"):
        METRICS["grid_pointing_game"].measure(planted_case(inside=QUADRANTS[0]), -random_map((4, 4), 0))


def test_the_share_equals_quantus_for_positive_maps(quantus: Any) -> None:
    for seed in range(8):
        values = random_map((4, 4), seed)
        expected = quantus_localization(quantus.RelevanceMassAccuracy(**options()), values, QUADRANTS[1])
        assert grid_pointing_game(values, QUADRANTS[1]) == pytest.approx(float(expected))
