"""Transition states by hand and by whole matrices."""

import pytest
import torch

from tests.helpers.explicit_attention import (
    A1,
    A2,
    CLASS,
    G2,
    close,
)
from vit_interactions.functional.integrated_gradient import positive_gradient
from vit_interactions.functional.transition_attention import transition_state


def test_the_two_layer_example() -> None:
    state = transition_state([A2.mean(1), A1.mean(1)], CLASS)
    close(state, [0.67, 0.75, 0.58])
    weights = positive_gradient(G2)[:, 0]
    close(weights, [0.15, 0.4, 0.2])
    close(state * weights, [0.1005, 0.3, 0.116])


def test_the_state_is_the_class_row_of_the_product_of_whole_matrices() -> None:
    last, middle, first = torch.rand(3, 2, 6, 6, dtype=torch.float64)
    one = torch.eye(6, dtype=torch.float64)
    readout = torch.zeros(2, 6, dtype=torch.float64)
    readout[:, 0] = 1
    expected = (last @ (middle + one) @ (first + one))[:, 0]
    torch.testing.assert_close(transition_state([last, middle, first], readout), expected)
    torch.testing.assert_close(transition_state([last], readout), last[:, 0])
    with pytest.raises(ValueError, match="at least one layer"):
        transition_state([], readout)


@pytest.mark.parametrize("used", [1, 2, 5])
def test_uniform_attention_has_a_constant_state(used: int) -> None:
    # 2^(L-1-start) / N
    uniform = torch.full((1, 7, 7), 1 / 7, dtype=torch.float64)
    state = transition_state([uniform] * used, torch.eye(7, dtype=torch.float64)[:1])
    torch.testing.assert_close(state, torch.full((1, 7), 2.0 ** (used - 1) / 7, dtype=torch.float64))
