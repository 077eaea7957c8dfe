"""The greedy order of patches by their pairs: solved by hand, against a loop over the definition, and with ties."""

from math import inf

import pytest
import torch
from torch import Tensor

from vit_interactions.functional.pair_order import greedy_pair_order


def symmetric(patches: int, pairs: dict[tuple[int, int], float]) -> Tensor:
    pair_map = torch.zeros(patches, patches, dtype=torch.float64)
    for (i, j), value in pairs.items():
        pair_map[i, j] = pair_map[j, i] = value
    return pair_map


def test_four_patches_by_hand() -> None:
    pair_map = symmetric(4, {(0, 1): 1, (0, 2): 5, (0, 3): 6, (1, 2): 7, (1, 3): 2, (2, 3): 9})
    # Highest: pair 2, 3 has 9; patch 0 adds 5 + 6, patch 1 adds 7 + 2.
    order = greedy_pair_order(pair_map).tolist()
    assert (set(order[:2]), order[2:]) == ({2, 3}, [0, 1])
    # Lowest: pair 0, 1 has 1; patch 2 adds 5 + 7, patch 3 adds 6 + 2.
    order = greedy_pair_order(pair_map, lowest=True).tolist()
    assert (set(order[:2]), order[2:]) == ({0, 1}, [3, 2])


def test_it_differs_from_a_ranking_of_row_sums() -> None:
    """The triangle 2, 3, 4 has the larger row sums, but its patches add little to the best pair 0, 1."""
    pair_map = symmetric(5, {(0, 1): 10, (2, 3): 9, (2, 4): 9, (3, 4): 9, (0, 2): 0.5, (0, 4): 0.25})
    order = greedy_pair_order(pair_map).tolist()
    assert (set(order[:2]), order[2:]) == ({0, 1}, [2, 4, 3])
    assert set(pair_map.sum(1).argsort(descending=True)[:3].tolist()) == {2, 3, 4}


@pytest.mark.parametrize("lowest", [False, True])
def test_each_step_adds_the_patch_with_the_largest_gain(lowest: bool) -> None:
    """Check S ∪ {argmax_v Σ_u∈S φ_uv}, with φ_uv = (m_uv + m_vu) / 2, or argmin, from the best pair."""
    pair_map = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    order = greedy_pair_order(pair_map, lowest=lowest).tolist()
    sign = -1 if lowest else 1

    def value(u: int, v: int) -> float:
        return sign * float(pair_map[u, v] + pair_map[v, u]) / 2

    best = max((value(u, v), {u, v}) for u in range(12) for v in range(u))
    assert set(order[:2]) == best[1]
    for size in range(2, 12):
        rest = [v for v in range(12) if v not in order[:size]]
        assert order[size] == max(rest, key=lambda v: sum(value(u, v) for u in order[:size]))
    assert sorted(order) == list(range(12))


def test_direction_diagonal_type_and_input() -> None:
    pair_map = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    order = greedy_pair_order(pair_map)
    assert torch.equal(order, greedy_pair_order(pair_map.T))
    assert torch.equal(order, greedy_pair_order(pair_map + 100 * torch.eye(9)))
    assert torch.equal(order, greedy_pair_order(-pair_map, lowest=True))
    before = pair_map.double()
    greedy_pair_order(before)
    assert torch.equal(before, pair_map.double())


def test_ties_are_in_an_order_of_the_seed() -> None:
    constant = torch.ones(20, 20)
    first = greedy_pair_order(constant)
    assert torch.equal(first, greedy_pair_order(constant))
    assert not torch.equal(first, greedy_pair_order(constant, seed=1))
    shown = torch.stack([greedy_pair_order(constant, seed=seed)[:10] for seed in range(200)]).flatten().bincount()
    assert int(shown.min()) > 70  # of 100 expected
    distinct = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    orders = [greedy_pair_order(distinct, seed=seed)[2:] for seed in (0, 1)]
    assert torch.equal(*orders)


def test_few_patches_and_wrong_maps() -> None:
    assert greedy_pair_order(torch.zeros(1, 1)).tolist() == [0]
    assert sorted(greedy_pair_order(torch.zeros(2, 2)).tolist()) == [0, 1]
    with pytest.raises(ValueError, match=r"`pair_map` must have shape \(patches, patches\), got \(2, 3\)"):
        greedy_pair_order(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`pair_map` must be finite, got NaN"):
        greedy_pair_order(torch.tensor([[0.0, inf], [0.0, 0.0]]))
