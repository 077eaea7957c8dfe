"""Maximum flow by hand and against networkx."""

import networkx
import pytest
import torch
from torch import Tensor

from vit_interactions.functional.maximum_flow import attention_flow


def test_one_layer_without_residual_is_the_attention_row() -> None:
    attention = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    flow = attention_flow([attention], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(flow, attention[0].double(), atol=1e-6)


def test_two_layers_by_hand() -> None:
    first, second = torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    flow = attention_flow([first, second], torch.tensor([1.0, 0.0]))
    assert torch.allclose(flow, torch.tensor([0.7, 0.9]).double(), atol=1e-6)  # rollout gives (.38, .62)


def by_networkx(matrices: list[Tensor], readout: Tensor) -> list[float]:
    graph = networkx.DiGraph()
    layers, tokens = len(matrices), len(readout)
    for top in range(tokens):
        graph.add_edge("source", (layers, top), capacity=float(readout[top]))
    for layer, matrix in enumerate(matrices, start=1):
        for i in range(tokens):
            for j in range(tokens):
                graph.add_edge((layer, i), (layer - 1, j), capacity=float(matrix[i, j]))
    return [networkx.maximum_flow_value(graph, "source", (0, j)) for j in range(tokens)]


@pytest.mark.parametrize("readout", [[1.0, 0.0, 0.0, 0.0], [0.0, 1 / 3, 1 / 3, 1 / 3]])
def test_agrees_with_another_solver(readout: list[float]) -> None:
    torch.manual_seed(3)
    matrices = [0.5 * torch.rand(4, 4).mul(4).softmax(-1) + 0.5 * torch.eye(4) for _ in range(3)]
    flow = attention_flow(matrices, torch.tensor(readout))
    assert torch.allclose(flow, torch.tensor(by_networkx(matrices, torch.tensor(readout))).double(), atol=1e-5)
    assert (flow <= 1 + 1e-6).all()


def whole_graph(matrices: list[Tensor], readout: Tensor) -> list[float]:
    """Solve every token on the whole graph, in exact integers: capacities in millionths."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_flow

    layers, tokens = len(matrices), len(readout)
    source = (layers + 1) * tokens
    capacities = torch.zeros(source + 1, source + 1, dtype=torch.int32)
    for layer, matrix in enumerate(matrices, start=1):
        above, below = slice(layer * tokens, (layer + 1) * tokens), slice((layer - 1) * tokens, layer * tokens)
        capacities[above, below] = (matrix.double() * 1e6).round().int()
    capacities[source, layers * tokens : source] = (readout.double() * 1e6).round().int()
    graph = csr_matrix(capacities.numpy())
    return [maximum_flow(graph, source, token).flow_value / 1e6 for token in range(tokens)]


@pytest.mark.parametrize("readout", ["class token", "average", "weighted"])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0])  # uniform, spread and one-hot attention
@pytest.mark.parametrize("residual", [0.5, 0.0])
def test_parts_of_the_graph_give_the_flow_of_the_whole(readout: str, sharpness: float, residual: float) -> None:
    torch.manual_seed(5)
    attention = [(sharpness * torch.randn(30, 30)).softmax(-1) for _ in range(4)]
    matrices = [(1 - residual) * matrix + residual * torch.eye(30) for matrix in attention]
    weights = {
        "class token": torch.eye(30)[0],
        "average": torch.full((30,), 1 / 30),
        "weighted": torch.randn(30).mul(3).softmax(-1),
    }[readout]
    assert attention_flow(matrices, weights).tolist() == whole_graph(matrices, weights)


def test_a_bottleneck_between_the_layers_limits_the_flow() -> None:
    # Both bounds are 1, but all flow passes one edge of 0.25 in the middle layer.
    tokens = 20
    wide, narrow = torch.full((tokens, tokens), 1 / tokens), torch.zeros(tokens, tokens)
    narrow[3, 4] = 0.25
    last, first = wide.clone(), torch.zeros(tokens, tokens)
    last[0] = 0.0
    last[0, 3] = 1.0
    first[4] = 1.0
    flow = attention_flow([first, narrow, last], torch.eye(tokens)[0])
    assert flow.tolist() == [0.25] * tokens


def test_tokens_that_nothing_reaches_get_no_flow() -> None:
    assert attention_flow([torch.eye(12)] * 3, torch.eye(12)[2]).tolist() == [0.0] * 2 + [1.0] + [0.0] * 9
    assert attention_flow([torch.eye(12)] * 3, torch.zeros(12)).tolist() == [0.0] * 12
