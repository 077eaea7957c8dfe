"""The pointing game with ties."""

import pytest
import torch

from tests.helpers.planted import INSIDE
from vit_interactions.metrics.pointing_game import pointing_game


def test_tied_highest_patches_score_a_fraction() -> None:
    values = torch.zeros(4, 4, dtype=torch.float64)
    values[1, 2] = values[0, 0] = values[0, 1] = 7.0
    assert pointing_game(values, INSIDE) == pytest.approx(1 / 3)
