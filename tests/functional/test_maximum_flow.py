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
