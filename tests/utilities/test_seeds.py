"""Generators are restored after a seeded block."""

import random

import numpy as np
import torch

from tests.helpers.draws import Draws
from vit_interactions.utilities.seeds import seeded


def test_generators_are_restored() -> None:
    def draw() -> tuple[float, float, float]:
        return Draws()[0]

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = [draw(), draw()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    first = draw()
    with seeded(9):
        draw()
    assert [first, draw()] == expected
