"""Tests of dependencies between tensors, in autograd graphs with known results."""

from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.graph import ancestors, name_of, node_of


def test_a_tensor_outside_the_graph_has_no_node() -> None:
    x = torch.ones(2, requires_grad=True)
    assert node_of(x.detach()) is None
    assert node_of(2 * x) is not None
    assert node_of(x) is node_of(x)


def test_ancestors_are_followed_past_marked_nodes_but_not_past_barriers() -> None:
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    first = x * 2
    second = (first + y).exp()
    third = second + 1
    marks = {node_of(x): 1, node_of(y): 2, node_of(first): 4, node_of(second): 8}
    found = ancestors([node_of(third)], marks)
    assert (found[node_of(third)], found[node_of(second)], found[node_of(first)]) == (15, 15, 5)
    assert ancestors([node_of(third)], marks, barriers=8)[node_of(third)] == 8
    assert ancestors([None], marks) == {}


def test_graphs_deeper_than_the_recursion_limit_are_walked() -> None:
    x = torch.ones(1, requires_grad=True)
    y = x
    for _ in range(5000):
        y = y + 1
    assert ancestors([node_of(y)], {node_of(x): 1})[node_of(y)] == 1


def test_a_function_whose_name_is_no_method_has_a_name() -> None:
    class Named(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.name = "mine"
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    x = torch.ones(1, requires_grad=True)
    assert name_of(Named.apply(x).grad_fn) == "NamedBackward"
    assert name_of((x * 2).grad_fn) == "MulBackward0"
