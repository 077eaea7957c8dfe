"""Ranks and checks of maps."""

import torch
from torch import Tensor

from tests.helpers.planted import (
    random_map,
)
from vit_interactions.metrics.patch_map import check_map, relevance_ranks


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


def test_a_checked_map_is_float64() -> None:
    assert check_map(torch.eye(2, dtype=torch.bfloat16), (2, 2)).dtype == torch.float64
