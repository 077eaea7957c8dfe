"""Statistics of fields against values worked out by hand and against slow loops."""

import math

import pytest
import torch

from vit_interactions.functional.field_claims import object_center, size_auc, size_difference, tendency_cosine

INSIDE = torch.tensor([True, True, False, False, False, False])


def test_size_difference_by_hand() -> None:
    # Means 3 and 4.5, of 6 patches.
    assert size_difference(torch.tensor([2, 4, 3, 6, 6, 3]), INSIDE) == pytest.approx((3 - 4.5) / 6)
    assert size_difference(torch.tensor([5] * 6), INSIDE) == 0
    assert math.isnan(size_difference(torch.tensor([1] * 6), torch.ones(6, dtype=torch.bool)))
    assert math.isnan(size_difference(torch.tensor([1] * 6), torch.zeros(6, dtype=torch.bool)))


def test_auc_counts_pairs_and_half_of_the_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.randint(1, 5, (30,), generator=generator)
    inside = torch.rand(30, generator=generator) < 0.4
    pairs = [(int(a), int(b)) for a in size[inside] for b in size[~inside]]
    expected = sum(1.0 if a < b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert size_auc(size, inside) == pytest.approx(expected)
    assert size_auc(-size, inside) == pytest.approx(1 - expected)
    assert size_auc(torch.ones(6), INSIDE) == 0.5
    assert size_auc(torch.tensor([1, 1, 2, 2, 2, 2]), INSIDE) == 1
    assert math.isnan(size_auc(torch.ones(6), torch.zeros(6, dtype=torch.bool)))


def test_cosine_of_tendencies_and_directions_by_hand() -> None:
    # 2 x 2 patches; the target is the center of the grid, so that all directions are diagonal.
    center = torch.tensor([0.5, 0.5], dtype=torch.float64)
    right = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    root = 0.5**0.5
    diagonal = torch.tensor([[root, root], [-root, root], [root, -root], [-root, -root]])
    assert tendency_cosine(diagonal, (2, 2), center) == pytest.approx(1)
    assert tendency_cosine(-diagonal, (2, 2), center) == pytest.approx(-1)
    assert tendency_cosine(right, (2, 2), center) == pytest.approx(0)  # root, -root, root, -root
    # Target at patch 3, the last: directions (1, 1), (0, 1), (1, 0), and none for the patch itself.
    corner = torch.tensor([1.0, 1.0])
    assert tendency_cosine(right, (2, 2), corner) == pytest.approx((root + 0 + 1) / 3)
    # Patches without a tendency do not count.
    without = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert tendency_cosine(without, (2, 2), corner) == pytest.approx(1)
    assert math.isnan(tendency_cosine(torch.zeros(4, 2), (2, 2), corner))
    with pytest.raises(ValueError, match="`grid` must be"):
        tendency_cosine(right, (2, 3), corner)


def test_center_of_an_object_is_x_before_y() -> None:
    inside = torch.zeros(3, 4, dtype=torch.bool)
    inside[0:2, 3] = True
    assert object_center(inside.flatten(), (3, 4)).tolist() == [3.0, 0.5]
