"""Average precision against a loop and other libraries."""

import pytest
import torch

from tests.helpers.planted import INSIDE, random_map
from vit_interactions.metrics.average_precision import average_precision
from vit_interactions.metrics.iou import intersection_over_union


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_by_a_loop_over_the_values(seed: int) -> None:
    values = (random_map((4, 4), seed) * 6).round()  # with ties
    found, result = 0, 0.0
    for value in sorted(set(values.flatten().tolist()), reverse=True):
        taken = values >= value
        hits = int((taken & INSIDE).sum())
        result += (hits - found) / int(INSIDE.sum()) * hits / int(taken.sum())
        found = hits
    assert average_precision(values, INSIDE) == pytest.approx(result, abs=1e-12)


def test_average_precision_does_not_depend_on_the_order_of_ties() -> None:
    values = torch.zeros(1, 4)
    values[0, 3] = 1.0
    inside = torch.tensor([[True, True, False, False]])
    assert average_precision(values, inside) == pytest.approx(0.5)  # all four to find the two
    assert average_precision(values, inside.flip(1)) == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_iou_and_average_precision_equal_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    for seed in range(10):
        values = (random_map((4, 4), seed) * 7).round() / 7  # with ties
        scaled = (values - values.min()) / (values.max() - values.min())
        jaccard = classification.BinaryJaccardIndex(threshold=0.4999)  # excludes the threshold; ours includes it
        assert intersection_over_union(values, INSIDE) == pytest.approx(
            float(jaccard(scaled, INSIDE.int())), abs=1e-6
        )
        precision = classification.BinaryAveragePrecision()
        expected = float(precision(scaled.flatten(), INSIDE.flatten().int()))
        assert average_precision(values, INSIDE) == pytest.approx(expected, abs=1e-6)


def test_average_precision_equals_scikit_learn() -> None:
    learn = pytest.importorskip("sklearn.metrics")
    for seed in range(10):
        values = 100 + 20 * (random_map((4, 4), seed) * 7).round()
        expected = learn.average_precision_score(INSIDE.flatten().numpy(), values.flatten().numpy())
        assert average_precision(values, INSIDE) == pytest.approx(float(expected))
