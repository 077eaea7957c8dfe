"""Single-deletion correlation by hand, by a slow loop, and for perfect and random maps."""

import pytest
import torch

from tests.helpers.planted import (
    GRID,
    ask_plainly,
    count_images,
    painted,
    planted_case,
    random_map,
    slow_spearman,
    tiny_case,
)
from vit_interactions.metrics import METRICS, single_deletion
from vit_interactions.metrics.single_deletion import grid_regions


@pytest.mark.parametrize(("grid", "cells"), [((4, 4), 4), ((14, 14), 4), ((3, 6), 4), ((37, 37), 4), ((5, 7), 2)])
def test_regions_are_rectangles_that_share_the_patches(grid: tuple[int, int], cells: int) -> None:
    regions = grid_regions(grid, cells)
    assert len(regions) == min(cells, grid[0]) * min(cells, grid[1])
    assert (regions.sum(0) == 1).all()
    heights, widths = regions.any(2).sum(1), regions.any(1).sum(1)
    assert torch.equal(heights * widths, regions.sum((1, 2)))
    assert int(heights.max() - heights.min()) <= 1
    assert int(widths.max() - widths.min()) <= 1


def test_the_correlation_by_a_slow_loop() -> None:
    """Spearman's correlation of the means of the map with f(x) - f(x without the region), per patch."""
    case, values = tiny_case(), random_map((3, 6), 3)
    means, drops = [], []
    columns = [[0, 1], [2], [3, 4], [5]]
    for row in range(3):
        for cols in columns:
            image = case.inputs[0].clone()
            image[:, 16 * row : 16 * row + 16, 16 * cols[0] : 16 * cols[-1] + 16] = 0.0
            means.append(float(values[row, cols].mean()))
            drops.append((ask_plainly(case, case.inputs[0]) - ask_plainly(case, image)) / len(cols))
    expected = slow_spearman(torch.tensor(means), torch.tensor(drops, dtype=torch.float64))
    assert single_deletion().measure(case, values).value == pytest.approx(expected, abs=1e-9)


def test_perfect_and_random_maps() -> None:
    """Patches of increasing red: their drops rank as their red."""
    image = torch.zeros(1, 3, 64, 64)
    red = random_map(GRID, 5)
    for place in range(16):
        image = painted(image, divmod(place, 4), 0, float(red.flatten()[place]))
    case = planted_case(image)
    metric = METRICS["single_deletion"]
    assert metric.measure(case, red).value == pytest.approx(1.0)
    assert metric.measure(case, 3 * red - 20).value == pytest.approx(1.0)
    assert metric.measure(case, -red).value == pytest.approx(-1.0)
    scores = [metric.measure(case, random_map(GRID, 100 + seed)).value for seed in range(200)]
    assert abs(sum(scores) / 200) < 0.06  # the standard error is 0.018


def test_regions_sum_the_details_of_the_map() -> None:
    """With two cells per side, only the four quadrants matter."""
    image = torch.zeros(1, 3, 64, 64)
    for place, red in (((0, 0), 1.0), ((0, 3), 0.75), ((3, 0), 0.5), ((3, 3), 0.25)):
        image = painted(image, place, 0, red)
    values = torch.tensor([[0.0, 0.0, 0.0, 3.0], [0.0, 4.0, 0.0, 0.0], [2.0, 0.0, 0.5, 0.5], [0.0] * 4]).double()
    assert single_deletion(cells=2).measure(planted_case(image), values).value == pytest.approx(1.0)


def test_methods_share_the_scores() -> None:
    case = tiny_case()
    sizes = count_images(case.model)
    single_deletion().measure(case, random_map((3, 6), 1))
    single_deletion().measure(case, random_map((3, 6), 2))
    assert sum(sizes) == 13


def test_no_difference_between_regions_raises() -> None:
    values = torch.tensor([[1.0, -1.0] * 2, [-1.0, 1.0] * 2] * 2)
    with pytest.raises(ValueError, match="all regions have the same value"):
        single_deletion(cells=2).measure(planted_case(), values)
    with pytest.raises(ValueError, match="all regions have the same drop"):
        single_deletion().measure(planted_case(torch.zeros(1, 3, 64, 64), mean=(0.0,) * 3), random_map(GRID, 0))
