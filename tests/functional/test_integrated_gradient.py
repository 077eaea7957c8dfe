"""Points of the path, and positive gradients by hand."""

from typing import Any

import pytest
import torch

from vit_interactions.functional.integrated_gradient import path_fractions, positive_gradient


def test_paths_have_both_ends_and_equal_steps() -> None:
    assert path_fractions(5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert path_fractions(2) == [0.0, 1.0]
    assert path_fractions(1) == [1.0]


@pytest.mark.parametrize("steps", [0, -1, 2.0, True])
def test_numbers_of_points_below_one_raise(steps: Any) -> None:
    with pytest.raises(ValueError, match="must be an integer >= 1"):
        path_fractions(steps)


def test_heads_are_clamped_before_they_are_averaged() -> None:
    heads = torch.tensor([[[[4.0, -2.0]], [[-4.0, 6.0]]]])
    assert positive_gradient(heads).tolist() == [[[2.0, 3.0]]]
