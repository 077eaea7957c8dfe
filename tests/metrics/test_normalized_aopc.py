"""Normalized AOPC against all orders of removal, by hand, and for perfect and random maps."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from tests.helpers.planted import (
    GRID,
    count_images,
    painted,
    planted_case,
    planted_map,
    random_map,
    tiny_case,
)
from vit_interactions.metrics import METRICS, deletion, normalized_aopc
from vit_interactions.metrics.normalized_aopc import greedy_ranks
from vit_interactions.metrics.pixel_scores import pixel_scores


def aopc(order: tuple[int, ...], score: dict[tuple[bool, ...], float]) -> float:
    """Return the mean of f(x) - f(x without the first k patches) over k = 1 ... n, the paper's definition."""
    count = len(order)
    shown = [True] * count
    full, total = score[tuple(shown)], 0.0
    for patch in order:
        shown[patch] = False
        total += full - score[tuple(shown)]
    return total / count


def test_the_search_finds_the_limits_of_all_orders_of_an_additive_score() -> None:
    """And the normalized value equals (AOPC - lowest) / (highest - lowest) with the paper's sum over steps."""
    weights = torch.tensor([0.3, -0.2, 0.9, 0.1, -0.5, 0.4], dtype=torch.float64)

    def score(shown: Tensor) -> Tensor:
        return shown.flatten(1).double() @ weights

    every = [tuple(bool(number >> place & 1) for place in range(6)) for number in range(64)]
    table = dict(zip(every, score(torch.tensor(every)).tolist(), strict=True))
    limits = [aopc(order, table) for order in permutations(range(6))]
    best = greedy_ranks((2, 3), 6, score, lowest=True).flatten().argsort()
    worst = greedy_ranks((2, 3), 6, score, lowest=False).flatten().argsort()
    assert aopc(tuple(best.tolist()), table) == pytest.approx(max(limits))
    assert aopc(tuple(worst.tolist()), table) == pytest.approx(min(limits))


def test_the_search_adapts_to_what_is_removed() -> None:
    """The score falls only if patches 0 and 1 are both gone; a search by single patches alone would not see it."""

    def score(shown: Tensor) -> Tensor:
        first, second, third = shown.flatten(1).double().unbind(1)
        return torch.maximum(first, second) + 0.5 * third - 0.1 * first

    assert greedy_ranks((1, 3), 3, score, lowest=True).tolist() == [[2, 1, 0]]
    assert greedy_ranks((1, 3), 3, score, lowest=False).tolist() == [[0, 2, 1]]


def test_the_value_for_every_rank_of_the_planted_patch() -> None:
    """With one relevant patch at rank r, all that counts is r: 1 - r / 15."""
    for rank in (0, 4, 15):
        values = torch.arange(15, -1, -1, dtype=torch.float64).roll(6 - rank).reshape(GRID)
        value = normalized_aopc(steps=16).measure(planted_case(), values).value
        assert value == pytest.approx(1 - rank / 15)


def test_it_is_the_paper_s_value_of_the_deletion_curve() -> None:
    case, values = tiny_case(), random_map((3, 6), 1)
    metric = normalized_aopc(steps=18, rounds=18)
    curve = deletion(steps=18).measure(case, values).curve
    assert curve is not None
    limits = []
    for lowest in (True, False):
        ranks = greedy_ranks((3, 6), 18, lambda shown: pixel_scores(case, shown, "mean"), lowest=lowest)
        limits.append(deletion(steps=18).measure(case, -ranks.double()).curve)
    own, high, low = (float((each[0, 1] - each[1:, 1]).mean()) for each in (curve, *limits))
    assert metric.measure(case, values).value == pytest.approx((own - low) / (high - low))


def test_perfect_and_random_maps_of_models_with_different_limits() -> None:
    """The raw area depends on how much there is to lose; the normalized one does not."""
    metric = METRICS["normalized_aopc"]
    areas = []
    for strength in (0.1, 1.0):
        case = planted_case(painted(torch.zeros(1, 3, 64, 64), (1, 2), 0, strength))
        assert metric.measure(case, planted_map()[0]).value == pytest.approx(1.0)
        areas.append(deletion(steps=16).measure(case, planted_map()[0]).value)
        scores = [metric.measure(case, random_map(GRID, seed)).value for seed in range(200)]
        assert sum(scores) / 200 == pytest.approx(0.5, abs=0.08)
    assert areas[1] - areas[0] > 0.01


def test_its_cost() -> None:
    case = tiny_case()
    sizes = count_images(case.model)
    metric = normalized_aopc(steps=18, rounds=3)
    metric.measure(case, random_map((3, 6), 1))
    # Two searches over 18, 12 and 6 patches, the first round of which is shared; then three curves.
    assert sum(sizes) <= 2 * 36 - 18 + 1 + 3 * 17
    before = sum(sizes)
    metric.measure(case, random_map((3, 6), 2))
    assert sum(sizes) - before <= 17


def test_scores_without_limits_raise() -> None:
    case = planted_case(torch.zeros(1, 3, 64, 64), mean=(0.0,) * 3)
    with pytest.raises(ValueError, match="every order of removal gives the same area"):
        METRICS["normalized_aopc"].measure(case, random_map(GRID, 0))
