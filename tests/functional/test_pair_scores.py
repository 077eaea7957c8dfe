"""Values of pairs and their rank correlations, against loops, scipy and the formula of partial correlations."""

from math import hypot, isnan

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from vit_interactions.functional.pair_scores import (
    pair_distances,
    pair_products,
    pair_values,
    rank_correlation,
)

PAIRS = torch.tensor([[0, 5], [3, 2], [1, 4]])


def drawn(count: int, seed: int) -> Tensor:
    """Draw numbers with ties."""
    return torch.randint(0, 9, (count,), generator=torch.Generator().manual_seed(seed)).float()


def test_values_products_and_distances_are_those_of_both_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    pair_map, patch_map = torch.randn(6, 6, generator=generator), torch.randn(6, generator=generator)
    for number, (i, j) in enumerate(PAIRS.tolist()):
        value = (float(pair_map[i, j]) + float(pair_map[j, i])) / 2
        assert float(pair_values(pair_map, PAIRS)[number]) == pytest.approx(value, abs=1e-12)
        product = abs(float(patch_map[i]) * float(patch_map[j]))
        assert float(pair_products(patch_map, PAIRS)[number]) == pytest.approx(product, abs=1e-12)
        distance = hypot(i // 3 - j // 3, i % 3 - j % 3)
        assert float(pair_distances(PAIRS, (2, 3))[number]) == pytest.approx(distance)
    assert torch.equal(pair_values(pair_map, PAIRS), pair_values(pair_map.T, PAIRS.flip(1)))


def test_without_covariates_it_is_spearmans_correlation() -> None:
    first, second = drawn(40, 0), drawn(40, 1)
    assert rank_correlation(first, second) == pytest.approx(float(spearmanr(first, second).statistic), abs=1e-12)
    assert rank_correlation(first, first.exp()) == pytest.approx(1.0)
    assert rank_correlation(first, -first) == pytest.approx(-1.0)


def test_partial_correlations_follow_the_recursive_formula() -> None:
    """Check r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2)) on ranks, and once more for a second z."""
    ranks = np.corrcoef([rankdata(drawn(40, seed)) for seed in range(4)])

    def partial(x: int, y: int, given: tuple[int, ...]) -> float:
        if not given:
            return float(ranks[x, y])
        *rest, z = given
        xy, xz, yz = (partial(a, b, tuple(rest)) for a, b in ((x, y), (x, z), (y, z)))
        return float((xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5)

    x, y, z, w = (drawn(40, seed) for seed in range(4))
    assert rank_correlation(x, y, [z]) == pytest.approx(partial(0, 1, (2,)), abs=1e-12)
    assert rank_correlation(x, y, [z, w]) == pytest.approx(partial(0, 1, (2, 3)), abs=1e-12)
    assert rank_correlation(x, y, [w, z]) == pytest.approx(partial(0, 1, (2, 3)), abs=1e-12)


def test_a_common_cause_is_partialled_out() -> None:
    generator = torch.Generator().manual_seed(0)
    cause = torch.rand(2000, generator=generator)
    first, second = (cause + 0.5 * torch.rand(2000, generator=generator) for _ in range(2))
    assert rank_correlation(first, second) > 0.7
    assert abs(rank_correlation(first, second, [cause])) < 0.1


def test_nothing_left_is_not_a_number() -> None:
    values, constant = drawn(20, 0), torch.ones(20)
    assert isnan(rank_correlation(values, constant))
    assert isnan(rank_correlation(constant, values, [drawn(20, 1)]))
    assert isnan(rank_correlation(values, drawn(20, 1), [2 * values]))
    assert not isnan(rank_correlation(values, drawn(20, 1), [constant]))
