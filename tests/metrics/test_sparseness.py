"""The Gini index by hand, by its mean difference, and against Quantus."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.other_metrics import options
from tests.helpers.planted import planted_case, planted_map, random_map
from vit_interactions.metrics import METRICS
from vit_interactions.metrics.sparseness import gini_index


def test_the_index_by_hand() -> None:
    # Sorted 1, 2, 3, 4 with weights -3, -1, 1, 3: 10 / (4 * 10).
    assert gini_index(torch.tensor([[4.0, -1.0], [2.0, -3.0]])) == pytest.approx(0.25)


def test_the_index_is_half_the_relative_mean_difference() -> None:
    """G = Σ_i Σ_j |x_i - x_j| / (2 n² mean), for any scale and order, with signs ignored."""
    values = random_map((3, 5), 0) - 0.4
    sizes = values.abs().flatten().tolist()
    expected = sum(abs(a - b) for a in sizes for b in sizes) / (2 * len(sizes) * sum(sizes))
    assert gini_index(values) == pytest.approx(expected)
    assert gini_index(-7 * values.flip(0)) == pytest.approx(expected)


def test_one_patch_is_the_sparsest_and_a_random_map_has_a_third() -> None:
    metric, case = METRICS["sparseness"], planted_case()
    assert metric.measure(case, planted_map()[0]).value == pytest.approx(1 - 1 / 16)
    assert gini_index(random_map((200, 200), 0)) == pytest.approx(1 / 3, abs=0.01)
    assert metric.direction == "none"


def test_the_index_equals_quantus(quantus: Any) -> None:
    for seed in range(5):
        values = random_map((4, 4), seed)
        metric = quantus.Sparseness(**{**options(), "abs": True})
        [theirs] = metric(
            model=None,
            x_batch=np.zeros((1, 1, 4, 4)),
            y_batch=np.array([0]),
            a_batch=values.numpy()[None, None].copy(),
            channel_first=True,
        )
        assert gini_index(values) == pytest.approx(float(theirs), abs=1e-6)  # Quantus adds 1e-7 to each value
