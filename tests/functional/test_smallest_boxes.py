"""Smallest boxes with a fraction of the marked patches, against a search over all boxes of the grid."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.helpers import references
from vit_interactions.functional import (
    adaptive_windows,
    bounding_boxes,
    relevant_pairs,
    smallest_boxes,
    window_masks,
    window_operations,
)
from vit_interactions.functional.windows import with_self

GRIDS = [(3, 4), (4, 3), (1, 6), (6, 1), (1, 1), (4, 4)]
COVERAGES = ["0", "0.2", "0.5", "0.7", "0.9", "0.95", "1"]


def random_marks(grid: tuple[int, int], density: float, batch: int = 2) -> Tensor:
    patches = grid[0] * grid[1]
    return torch.rand(batch, patches, patches) < density


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_equals_a_search_over_all_boxes(grid: tuple[int, int], density: float, coverage: str) -> None:
    marked = random_marks(grid, density)
    found = smallest_boxes(marked, grid, float(coverage))
    for image, boxes in zip(marked, found.tolist(), strict=True):
        for patch, row in enumerate(image):
            members = set(row.nonzero().flatten().tolist())
            expected = references.smallest_window(patch, members, grid, Fraction(coverage))
            assert tuple(boxes[patch]) == expected


@pytest.mark.parametrize("grid", [(5, 7), (7, 5), (14, 14)])
def test_full_coverage_is_the_bounding_box(grid: tuple[int, int]) -> None:
    for density in (0.0, 0.02, 0.3):
        marked = random_marks(grid, density)
        assert torch.equal(smallest_boxes(marked, grid, 1.0), bounding_boxes(with_self(marked), grid))


def test_no_coverage_and_no_marks_leave_the_patch_alone() -> None:
    alone = [[x, y, x, y] for y in range(3) for x in range(4)]
    assert smallest_boxes(random_marks((3, 4), 0.5, 1), (3, 4), 0.0)[0].tolist() == alone
    assert smallest_boxes(random_marks((3, 4), 0.0, 1), (3, 4), 0.9)[0].tolist() == alone


def test_one_distant_patch_opens_the_bounding_box_only() -> None:
    marked = torch.zeros(1, 100, 100, dtype=torch.bool)
    cells = marked[0, 11].view(10, 10)
    cells[0:3, 0:3] = True
    cells[9, 9] = True
    assert smallest_boxes(marked, (10, 10), 1.0)[0, 11].tolist() == [0, 0, 9, 9]
    assert smallest_boxes(marked, (10, 10), 0.9)[0, 11].tolist() == [0, 0, 2, 2]  # nine of ten
    assert smallest_boxes(marked, (10, 10), 0.91)[0, 11].tolist() == [0, 0, 9, 9]


def test_the_fraction_is_not_missed_by_a_rounding_error() -> None:
    # 0.07 * 100 is 7.000000000000001 in floating point; seven patches suffice.
    marked = torch.ones(1, 100, 100, dtype=torch.bool)
    boxes = smallest_boxes(marked, (1, 100), 0.07)
    assert ((boxes[0, :, 2] - boxes[0, :, 0]) == 6).all()


def test_of_equal_areas_the_highest_then_the_leftmost_box_is_chosen() -> None:
    marked = torch.zeros(1, 9, 9, dtype=torch.bool)
    marked[0, 4, [1, 3, 5, 7]] = True  # above, left, right and below the center
    assert smallest_boxes(marked, (3, 3), 0.25)[0, 4].tolist() == [1, 0, 1, 1]
    marked[0, 4, 1] = False
    assert smallest_boxes(marked, (3, 3), 1 / 3)[0, 4].tolist() == [0, 1, 1, 1]


def test_area_grows_with_coverage() -> None:
    marked = random_marks((6, 7), 0.2)
    areas = [box_areas(smallest_boxes(marked, (6, 7), share / 20)) for share in range(21)]
    for smaller, larger in pairwise(areas):
        assert (smaller <= larger).all()
    assert (areas[0] < areas[-1]).any()


def test_flips_and_transposes_keep_the_area() -> None:
    rows, cols = 5, 6
    marked = random_marks((rows, cols), 0.3)
    areas = box_areas(smallest_boxes(marked, (rows, cols), 0.8))
    index = torch.arange(rows * cols).view(rows, cols)
    for order, grid in ((index.flip(0), (rows, cols)), (index.flip(1), (rows, cols)), (index.T, (cols, rows))):
        moved = order.flatten()
        found = smallest_boxes(marked[:, moved][:, :, moved], grid, 0.8)
        assert torch.equal(box_areas(found), areas[:, moved])


def test_marks_that_move_with_their_patch_move_the_box() -> None:
    marked = torch.zeros(1, 81, 81, dtype=torch.bool)
    shape = torch.rand(3, 3) < 0.6
    for y in range(1, 8):
        for x in range(1, 8):
            marked[0, y * 9 + x].view(9, 9)[y - 1 : y + 2, x - 1 : x + 2] = shape
    boxes = smallest_boxes(marked, (9, 9), 0.7)[0].view(9, 9, 4)[1:8, 1:8]
    y, x = torch.meshgrid(torch.arange(1, 8), torch.arange(1, 8), indexing="ij")
    assert len((boxes - torch.stack((x, y, x, y), -1)).view(-1, 4).unique(dim=0)) == 1


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = random_marks((5, 4), 0.3, batch=5)
    whole = smallest_boxes(marked, (5, 4), 0.8)
    monkeypatch.setitem(smallest_boxes.__globals__, "CHUNK", 1)
    assert torch.equal(smallest_boxes(marked, (5, 4), 0.8), whole)


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3, 1.0])
def test_adaptive_windows_with_a_coverage(alpha: float) -> None:
    values = references.random_uncertainty((5, 5))
    relevant = relevant_pairs(values, alpha)
    paper = adaptive_windows(values, (5, 5), alpha)
    assert torch.equal(adaptive_windows(values, (5, 5), alpha, coverage=1.0), paper)
    windows = adaptive_windows(values, (5, 5), alpha, coverage=0.8)
    assert torch.equal(windows, smallest_boxes(relevant, (5, 5), 0.8))
    covered = (window_masks(windows, (5, 5)) & relevant).sum(-1)
    assert (covered >= 0.8 * relevant.sum(-1)).all()
    assert (window_operations(windows) <= window_operations(paper)).all()


@pytest.mark.parametrize("coverage", [-0.1, 1.1, float("nan"), True])
def test_coverage_outside_its_range_raises(coverage: float) -> None:
    with pytest.raises(ValueError, match=r"`coverage` must lie in \[0, 1\], got"):
        adaptive_windows(torch.zeros(1, 4, 4), (2, 2), coverage=coverage)
    with pytest.raises(ValueError, match=r"`coverage` must lie in \[0, 1\], got"):
        smallest_boxes(torch.zeros(1, 4, 4, dtype=torch.bool), (2, 2), coverage)


def box_areas(boxes: Tensor) -> Tensor:
    left, top, right, bottom = boxes.unbind(-1)
    return (right - left + 1) * (bottom - top + 1)
