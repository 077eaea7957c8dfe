"""Rules of relevance by hand."""

import torch

from tests.helpers.chefer_reference import slow_linear, slow_sum
from vit_interactions.functional.relevance import (
    attention_relevance,
    divide,
    linear_relevance,
    mean_relevance,
    product_relevance,
    sum_relevance,
)


def test_linear_rule_by_hand_and_contribution_by_contribution() -> None:
    one = torch.ones(1)
    shared = linear_relevance(one, torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 2.0]]))
    assert shared.tolist() == [1.0, 0.0]
    assert linear_relevance(one, torch.tensor([1.0]), torch.tensor([[-1.0]])).tolist() == [0.0]
    x, weight, relevance = torch.randn(4, 7).double(), torch.randn(5, 7).double(), torch.randn(4, 5).double()
    shared = linear_relevance(relevance, x, weight)
    torch.testing.assert_close(shared, slow_linear(relevance, x, weight))
    torch.testing.assert_close(shared.sum(-1), relevance.sum(-1))
    assert linear_relevance(relevance.half(), x.half(), weight.half()).dtype == torch.float32


def test_sum_rule_keeps_the_relevance_of_each_image() -> None:
    a, b, relevance = torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double()
    first, second = sum_relevance(relevance, a, b)
    torch.testing.assert_close((first + second).sum((1, 2)), relevance.sum((1, 2)))
    for i in range(3):
        expected = slow_sum(relevance[i], a[i], b[i])
        torch.testing.assert_close((first[i], second[i]), expected)
    first, second = sum_relevance(torch.ones(1, 2), torch.ones(1, 2), -torch.ones(1, 2))
    assert first.eq(0).all()
    assert second.eq(0).all()
    # Relevance that cancels within a branch is not multiplied to infinity.
    first, second = sum_relevance(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])
    )
    assert first.tolist() == [[0.0, 0.0]]
    assert second.tolist() == [[0.0, 2.0]]


def test_mean_and_product_rules() -> None:
    x, relevance = torch.randn(2, 3, 4).double(), torch.randn(2, 1, 4).double()
    shared = mean_relevance(relevance, x, x.sum(1, keepdim=True))
    torch.testing.assert_close(shared.sum(1, keepdim=True), relevance)
    torch.testing.assert_close(shared[0, 1, 2], x[0, 1, 2] / x[0, :, 2].sum() * relevance[0, 0, 2])
    a, b, relevance = torch.randn(3, 4).double(), torch.randn(4, 2).double(), torch.randn(3, 2).double()
    of_a, of_b = product_relevance(relevance, a, b)
    parts = a[:, :, None] * b[None] / (a @ b)[:, None] * relevance[:, None]
    torch.testing.assert_close((of_a, of_b), (parts.sum(2) / 2, parts.sum(0) / 2))
    torch.testing.assert_close(of_a.sum(), relevance.sum() / 2)
    assert divide(torch.tensor([1.0, 0.0, -3.0]), torch.tensor([0.0, 0.0, 2.0])).tolist() == [0.0, 0.0, -1.5]
    attention = torch.rand(2, 3, 3).double().softmax(-1)
    q, k, v = torch.randn(3, 2, 3, 5).double()
    relevance = torch.randn(2, 3, 5).double()
    parts = attention_relevance(relevance, q, k, v, attention)
    total = relevance.sum((1, 2))
    for part, share in zip(parts, (0.25, 0.25, 0.5), strict=True):
        torch.testing.assert_close(part.sum((1, 2)), share * total)
