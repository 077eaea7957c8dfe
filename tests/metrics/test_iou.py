"""IoU against a loop."""

import itertools

import pytest
import torch

from tests.helpers.planted import INSIDE, planted_case, random_map
from vit_interactions.metrics import iou
from vit_interactions.metrics.iou import intersection_over_union


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_iou_by_a_loop(threshold: float) -> None:
    values = random_map((4, 4), 8) * 3 - 1
    lowest, highest = float(values.min()), float(values.max())
    both = either = 0
    for row, col in itertools.product(range(4), range(4)):
        high = float(values[row, col]) >= lowest + threshold * (highest - lowest)
        both += high and bool(INSIDE[row, col])
        either += high or bool(INSIDE[row, col])
    assert intersection_over_union(values, INSIDE, threshold) == pytest.approx(both / either)
    assert iou(threshold).measure(planted_case(inside=INSIDE), values).value == pytest.approx(both / either)


def test_iou_thresholds_are_validated() -> None:
    with pytest.raises(ValueError, match=r"`threshold` must lie in \[0, 1\], got 2"):
        iou(2)


def test_a_value_equal_to_the_threshold_counts_as_high() -> None:
    values, inside = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[False, True, True]])
    assert intersection_over_union(values, inside, 0.5) == 1.0
