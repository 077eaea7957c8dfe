"""The two-layer example, and fusions by hand."""

import pytest
import torch

from tests.helpers.explicit_attention import (
    A1,
    A2,
    G1,
    G2,
    close,
)
from vit_interactions.functional.beyond_intuition import (
    fuse_by_head,
    fuse_by_token,
    head_importance,
    relevance_rows,
)
from vit_interactions.functional.integrated_gradient import positive_gradient

FIRST_ROW = torch.tensor([0])


def test_the_two_layer_example() -> None:
    close(head_importance(A1, G1), [0.422857, 0.577143])
    close(head_importance(A2, G2), [0.611111, 0.388889])
    relevance = relevance_rows([fuse_by_head(A2, G2), fuse_by_head(A1, G1)], FIRST_ROW)
    close(relevance, [1.891448, 1.248622, 0.859930])
    close(positive_gradient(G2)[:, 0] * relevance[:, 0], [0.283717, 0.499449, 0.171986])


def test_identical_heads_weigh_the_same_and_so_do_heads_without_gradient() -> None:
    attention, gradient = torch.rand(2, 1, 4, 4).double(), torch.randn(2, 1, 4, 4).double()
    same = head_importance(attention.expand(2, 3, 4, 4), gradient.expand(2, 3, 4, 4))
    close(same, torch.full((2, 3), 1 / 3), 1e-7)
    close(head_importance(attention, torch.zeros(2, 5, 4, 4).double()), torch.full((2, 5), 0.2), 1e-7)
    close(head_importance(attention.expand(2, 3, 4, 4), -7 * gradient.expand(2, 3, 4, 4)), same, 1e-12)


def test_rows_of_relevance_are_rows_of_the_product_of_whole_matrices() -> None:
    last, middle, first = torch.rand(3, 2, 5, 5, dtype=torch.float64)
    one = torch.eye(5, dtype=torch.float64)
    whole = (one + last) @ (one + middle) @ (one + first)
    for rows in ([0], [1, 4], list(range(5))):
        torch.testing.assert_close(relevance_rows([last, middle, first], torch.tensor(rows)), whole[:, rows])
    with pytest.raises(ValueError, match="at least one layer"):
        relevance_rows([], FIRST_ROW)


def test_token_wise_fusion_by_hand() -> None:
    attention = torch.tensor([[[[0.5, 0.5], [0.2, 0.8]], [[0.1, 0.9], [0.6, 0.4]]]])
    value = torch.tensor([[[[3.0], [0.0]], [[4.0], [1.0]]]])  # of the heads together: (3, 4) and (0, 1)
    projection = torch.tensor([[0.0, 1.0], [2.0, 0.0]])  # gives (4, 6) and (1, 0)
    inputs = torch.tensor([[[0.0, 13.0**0.5], [0.25, 0.0]]])  # so the factors are 2 and 4
    close(fuse_by_token(attention, value, projection, inputs), [[0.6, 2.8], [0.8, 2.4]])
    # A token without input moves nothing, and nothing becomes infinite.
    close(
        fuse_by_token(attention, value, projection, inputs * torch.tensor([[[0.0], [1.0]]])), [[0, 2.8], [0, 2.4]]
    )
