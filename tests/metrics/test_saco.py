"""SaCo by hand, by the loop of its algorithm, and for perfect and random maps."""

import pytest
import torch

from tests.helpers.planted import (
    GRID,
    PATCH,
    ask_plainly,
    painted,
    planted_case,
    planted_map,
    random_map,
    tiny_case,
)
from vit_interactions.metrics import METRICS, saco
from vit_interactions.metrics.patch_map import relevance_ranks
from vit_interactions.metrics.saco import faithfulness_coefficient


def test_the_coefficient_by_hand() -> None:
    # Pairs: 5 - 3 holds (+2), 5 - 0 fails (-5), 3 - 0 fails (-3): -6 / 10.
    saliences = torch.tensor([5.0, 3.0, 0.0])
    assert faithfulness_coefficient(saliences, torch.tensor([0.2, 0.1, 0.4])) == pytest.approx(-0.6)
    assert faithfulness_coefficient(saliences, torch.tensor([0.4, 0.2, 0.1])) == 1.0
    assert faithfulness_coefficient(saliences, torch.tensor([0.1, 0.2, 0.4])) == -1.0
    assert (
        faithfulness_coefficient(saliences, torch.tensor([0.1, 0.1, 0.1])) == 1.0
    )  # equal drops count as faithful


@pytest.mark.parametrize("groups", [6, 18])
def test_saco_by_the_loop_of_the_algorithm(groups: int) -> None:
    case, values = tiny_case(), random_map((3, 6), 3) - 0.3
    ranks, size = relevance_ranks(values, 0), 18 // groups
    saliences, drops = [], []
    for group in range(groups):
        image, salience = case.inputs[0].clone(), 0.0
        for row in range(3):
            for col in range(6):
                if group * size <= int(ranks[row, col]) < (group + 1) * size:
                    image[:, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 0.0
                    salience += float(values[row, col])  # the sum, as in the paper
        saliences.append(salience)
        drops.append(ask_plainly(case, case.inputs[0]) - ask_plainly(case, image))
    coefficient = total = 0.0
    for i in range(groups - 1):
        for j in range(i + 1, groups):
            weight = saliences[i] - saliences[j]
            coefficient += weight if drops[i] >= drops[j] else -weight
            total += abs(weight)
    assert saco(groups=groups).measure(case, values).value == pytest.approx(coefficient / total, abs=1e-9)


def test_perfect_and_random_maps() -> None:
    image = torch.zeros(1, 3, 64, 64)
    red = random_map(GRID, 5) / 10  # the score does not saturate
    for place in range(16):
        image = painted(image, divmod(place, 4), 0, float(red.flatten()[place]))
    case = planted_case(image)
    metric = saco(groups=16)
    assert metric.measure(case, red).value == 1.0
    assert metric.measure(case, 3 * red - 20).value == 1.0
    assert metric.measure(case, -red).value == -1.0
    scores = [METRICS["saco"].measure(case, random_map(GRID, 100 + seed)).value for seed in range(200)]
    assert abs(sum(scores) / 200) < 0.1


def test_groups_of_unequal_size_do_not_matter_for_the_salience() -> None:
    """Sixteen patches in ten groups: of a nearly constant map, the sums would rank the groups by their size."""
    values = 1 + 1e-3 * planted_map(1.0)[0].double()
    values[PATCH] += 1e-3
    assert METRICS["saco"].measure(planted_case(), values).value == pytest.approx(1.0)


def test_less_than_two_groups_raise() -> None:
    with pytest.raises(ValueError, match="`groups` must be >= 2, got 1"):
        saco(groups=1)
