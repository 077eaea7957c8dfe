"""Adaptive windows (Eqs. 4, 5): exact T, ties, inclusive bounds, against loops over the equations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import references
from vit_interactions import InteractionUncertainty
from vit_interactions.functional import (
    adaptive_windows,
    bounding_boxes,
    relevant_pairs,
    window_masks,
    window_operations,
)

GRIDS = [(4, 4), (2, 5), (5, 2), (1, 6), (6, 1), (1, 1)]
ALPHAS = [0.0, 0.025, 0.1, 0.2, 0.5, 0.77, 1.0]


def random_uncertainty(grid: tuple[int, int], batch: int = 2, levels: int | None = None) -> Tensor:
    """Random U of every pair; with few `levels`, full of ties."""
    patches = grid[0] * grid[1]
    if levels is None:
        return torch.rand(batch, patches, patches, dtype=torch.float64) ** 4
    return torch.randint(levels, (batch, patches, patches)).double()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("levels", [None, 2, 5], ids=["distinct", "two-levels", "five-levels"])
def test_equals_the_equations_written_as_loops(grid: tuple[int, int], alpha: float, levels: int | None) -> None:
    values = random_uncertainty(grid, levels=levels)
    windows = adaptive_windows(values, grid, alpha)
    for image, rectangles, operations in zip(
        values.tolist(), windows.tolist(), window_operations(windows), strict=True
    ):
        expected = [references.window(members, grid[1]) for members in references.candidates(image, alpha)]
        assert [tuple(rectangle) for rectangle in rectangles] == expected
        assert operations == references.operations(expected)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_equals_the_loops_on_the_uncertainty_of_a_trained_model(
    trained_vit: nn.Module, real_images: Callable[[int], Tensor], alpha: float
) -> None:
    values = InteractionUncertainty(trained_vit).uncertainty(real_images(2))
    windows = adaptive_windows(values, (14, 14), alpha)
    for image, rectangles in zip(values.tolist(), windows.tolist(), strict=True):
        expected = [references.window(members, 14) for members in references.candidates(image, alpha)]
        assert [tuple(rectangle) for rectangle in rectangles] == expected


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("levels", [None, 1, 2, 3], ids=["distinct", "constant", "two-levels", "three-levels"])
def test_exactly_t_pairs_are_marked_and_none_unmarked_is_larger(alpha: float, levels: int | None) -> None:
    values = random_uncertainty((3, 4), batch=3, levels=levels)
    marked = relevant_pairs(values, alpha)
    assert marked.sum((1, 2)).tolist() == [references.share(alpha, 144)] * 3
    for image, chosen in zip(values, marked, strict=True):
        if chosen.any() and not chosen.all():
            assert image[chosen].min() >= image[~chosen].max()


def test_of_equal_values_the_lowest_flat_index_is_kept() -> None:
    values = torch.tensor([[[1.0, 2.0, 1.0], [2.0, 1.0, 2.0], [1.0, 1.0, 2.0]]])
    # Four 2s, then 1s in the order of their flat index: 0, 2, 4, ...
    flat = relevant_pairs(values, alpha=2 / 9).flatten().nonzero().flatten().tolist()
    assert flat == [1, 3]
    assert relevant_pairs(values, alpha=6 / 9).flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 5, 8]
    constant = torch.full((1, 3, 3), 0.25)
    assert relevant_pairs(constant, alpha=4 / 9).flatten().tolist() == [True] * 4 + [False] * 5


def test_one_threshold_an_image_not_one_a_row_nor_one_a_batch() -> None:
    values = torch.zeros(2, 4, 4)
    values[0, 2] = 1.0  # all four of the first image's largest values are in one row
    values[1] = torch.eye(4) * 100
    marked = relevant_pairs(values, alpha=4 / 16)
    assert marked[0].sum(1).tolist() == [0, 0, 4, 0]
    assert torch.equal(marked[1], torch.eye(4, dtype=torch.bool))


def test_alpha_one_opens_the_whole_image() -> None:
    windows = adaptive_windows(random_uncertainty((14, 14), batch=1), (14, 14), alpha=1.0)
    assert window_operations(windows).item() == 38_416  # Table 1: 196², which needs inclusive bounds
    assert windows.reshape(-1, 4).unique(dim=0).tolist() == [[0, 0, 13, 13]]


def test_alpha_zero_leaves_every_patch_alone() -> None:
    windows = adaptive_windows(random_uncertainty((2, 3), batch=1), (2, 3), alpha=0.0)
    assert windows[0].tolist() == [[x, y, x, y] for y in range(2) for x in range(3)]
    assert window_operations(windows).item() == 6


def test_a_patch_without_candidates_is_alone_in_its_window() -> None:
    values = torch.zeros(1, 6, 6)
    values[0, 0, 4] = 1.0
    windows = adaptive_windows(values, (2, 3), alpha=1 / 36)
    assert windows[0].tolist() == [
        [0, 0, 1, 1],
        [1, 0, 1, 0],
        [2, 0, 2, 0],
        [0, 1, 0, 1],
        [1, 1, 1, 1],
        [2, 1, 2, 1],
    ]
    assert window_operations(windows).item() == 4 + 5


def test_the_window_holds_the_patch_itself_even_if_its_candidates_lie_elsewhere() -> None:
    values = torch.zeros(1, 9, 9)
    values[0, 8, 0] = values[0, 8, 1] = 1.0  # the last patch looks at the top left only
    assert adaptive_windows(values, (3, 3), alpha=2 / 81)[0, 8].tolist() == [0, 0, 2, 2]


def test_transposing_the_image_transposes_the_windows() -> None:
    rows, cols = 3, 5
    values = random_uncertainty((rows, cols))
    # Patch (y, x) of the image is patch (x, y) of its transpose.
    order = torch.arange(rows * cols).view(rows, cols).T.flatten()
    transposed = adaptive_windows(values[:, order][:, :, order], (cols, rows), alpha=0.1)
    left, top, right, bottom = adaptive_windows(values, (rows, cols), alpha=0.1)[:, order].unbind(-1)
    assert torch.equal(transposed, torch.stack((top, left, bottom, right), -1))


def test_windows_grow_with_alpha() -> None:
    values = random_uncertainty((4, 5))
    previous = window_masks(adaptive_windows(values, (4, 5), 0.0), (4, 5))
    for alpha in ALPHAS[1:]:
        masks = window_masks(adaptive_windows(values, (4, 5), alpha), (4, 5))
        assert (masks | ~previous).all()
        previous = masks
    assert previous.all()


def test_masks_and_operations_count_the_same_patches() -> None:
    grid = (4, 3)
    windows = adaptive_windows(random_uncertainty(grid, batch=3), grid, alpha=0.05)
    masks = window_masks(windows, grid)
    for image, rectangles in zip(masks.tolist(), windows.tolist(), strict=True):
        for row, (left, top, right, bottom) in zip(image, rectangles, strict=True):
            assert row == [top <= y <= bottom and left <= x <= right for y in range(4) for x in range(3)]
    assert torch.equal(masks.sum((1, 2)), window_operations(windows))
    assert torch.equal(bounding_boxes(masks, grid), windows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_any_floating_type(dtype: torch.dtype) -> None:
    values = torch.arange(16.0).view(1, 4, 4).to(dtype)
    assert relevant_pairs(values, alpha=0.25).flatten().tolist() == [False] * 12 + [True] * 4


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf"), True])
def test_alpha_outside_its_range_raises(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\], got"):
        adaptive_windows(torch.zeros(1, 4, 4), (2, 2), alpha)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 5), (1, 1, 4, 4)])
def test_invalid_uncertainty_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`uncertainty` must have shape \(batch, patches, patches\), got"):
        adaptive_windows(torch.zeros(shape), (2, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_uncertainty_raises(value: float) -> None:
    values = torch.zeros(1, 4, 4)
    values[0, 1, 2] = value
    with pytest.raises(ValueError, match="`uncertainty` must be finite"):
        adaptive_windows(values, (2, 2))


def test_a_grid_that_does_not_fit_raises() -> None:
    with pytest.raises(ValueError, match=r"rows \* cols = 4 patches, got \(2, 3\)"):
        adaptive_windows(torch.zeros(1, 4, 4), (2, 3))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("levels", [None, 2])
def test_excluded_columns_are_relevant_to_no_other_patch(alpha: float, levels: int | None) -> None:
    values = random_uncertainty((3, 4), levels=levels)
    gone = [{0, 7}, set(range(6))]
    exclude = torch.tensor([[i in each for i in range(12)] for each in gone])
    marked = relevant_pairs(values, alpha, exclude)
    windows = adaptive_windows(values, (3, 4), alpha, exclude=exclude)
    for image, out, got, boxes in zip(values.tolist(), gone, marked, windows.tolist(), strict=True):
        # The T largest pairs of the other columns, ties by the lowest flat index.
        pairs = [(p, i) for p in range(12) for i in range(12) if i not in out]
        pairs.sort(key=lambda pair: (-image[pair[0]][pair[1]], pair))
        expected = pairs[: references.share(alpha, 144)]
        assert got.nonzero().tolist() == sorted(map(list, expected))
        members = [{p} | {i for q, i in expected if q == p} for p in range(12)]
        assert boxes == [list(references.window(each, 4)) for each in members]


def test_nothing_excluded_changes_nothing() -> None:
    values = random_uncertainty((3, 4))
    nothing = torch.zeros(2, 12, dtype=torch.bool)
    assert torch.equal(relevant_pairs(values, 0.3, nothing), relevant_pairs(values, 0.3))
    assert not relevant_pairs(values, 0.3, ~nothing).any()


@pytest.mark.parametrize("exclude", [torch.zeros(2, 11, dtype=torch.bool), torch.zeros(2, 12)])
def test_exclude_of_another_shape_or_type_raises(exclude: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`exclude` must be bool of shape \(2, 12\), got torch\."):
        relevant_pairs(random_uncertainty((3, 4)), 0.3, exclude)
