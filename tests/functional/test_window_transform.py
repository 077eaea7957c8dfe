"""Windows of crops and flipped images: by hand, and by a loop over the patches of a crop."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from vit_interactions.functional.responsive_field import field_from_windows
from vit_interactions.functional.window_transform import WHOLE, Box, transform_field


def random_windows(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return random windows, each around its patch, and random dropped patches."""
    rows, cols = grid
    patch = torch.arange(rows * cols)
    x, y = patch % cols, patch // cols
    reach = torch.rand(4, rows * cols)
    bounds = (reach[0] * (x + 1), reach[1] * (y + 1), x + reach[2] * (cols - x), y + reach[3] * (rows - y))
    return torch.stack([b.floor().long() for b in bounds], -1), torch.rand(rows * cols) < 0.3


def mask_of(windows: Tensor, dropped: Tensor, grid: tuple[int, int]) -> Tensor:
    return field_from_windows(windows[None], dropped[None], grid).mask[0]


def source_patch(row: int, col: int, grid: tuple[int, int], box: tuple[Fraction, ...], flip: bool) -> int:
    """Return the patch of the image that contains the center of a patch of the crop, in exact fractions."""
    rows, cols = grid
    top, left, height, width = box
    col = cols - 1 - col if flip else col
    y = (top + height * Fraction(2 * row + 1, 2 * rows)) * rows
    x = (left + width * Fraction(2 * col + 1, 2 * cols)) * cols
    return math.floor(y) * cols + math.floor(x)


@pytest.mark.parametrize("grid", [(3, 4), (7, 7), (1, 5)])
@pytest.mark.parametrize("flip", [False, True])
def test_patches_of_a_crop_inherit_the_windows_at_their_centers(grid: tuple[int, int], flip: bool) -> None:
    rows, cols = grid
    for seed in range(20):
        torch.manual_seed(seed)
        windows, dropped = random_windows(grid)
        height, width = (Fraction(int(n), 97) for n in torch.randint(5, 98, (2,)))
        top, left = (
            (1 - side) * Fraction(int(n), 10)
            for side, n in zip((height, width), torch.randint(0, 11, (2,)), strict=True)
        )
        box = (top, left, height, width)
        got_windows, got_dropped = transform_field(windows, dropped, grid, tuple(map(float, box)), flip)  # type: ignore[arg-type]
        under = [source_patch(r, c, grid, box, flip) for r in range(rows) for c in range(cols)]
        for p, source in enumerate(under):
            assert got_dropped[p] == dropped[source]
            left_, top_, right_, bottom_ = got_windows[p].tolist()
            a, b, c, d = windows[source].tolist()
            for i, other in enumerate(under):
                inside = left_ <= i % cols <= right_ and top_ <= i // cols <= bottom_
                assert inside == (a <= other % cols <= c and b <= other // cols <= d)
            assert left_ <= p % cols <= right_
            assert top_ <= p // cols <= bottom_


def test_by_hand() -> None:
    # The lower right quarter of 2 x 4 patches: both rows correspond to the patches 6, 6, 7, 7.
    windows = torch.tensor([[[0, 0, 3, 0]] * 4, [[1, 0, 2, 1], [0, 1, 1, 1], [0, 0, 2, 1], [3, 1, 3, 1]]]).view(
        8, 4
    )
    dropped = torch.tensor([0, 0, 0, 0, 0, 0, 1, 0]).bool()
    got, gone = transform_field(windows, dropped, (2, 4), (0.5, 0.5, 0.5, 0.5))
    assert got.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 0, 3, 1], [2, 0, 3, 1]] * 2
    assert gone.tolist() == [True, True, False, False] * 2
    # The same crop, flipped.
    got, gone = transform_field(windows, dropped, (2, 4), (0.5, 0.5, 0.5, 0.5), flip=True)
    assert got.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 0, 3, 1], [2, 0, 3, 1]] * 2
    assert gone.tolist() == [False, False, True, True] * 2
    # The middle half of the columns: centers at 1.25, 1.75, 2.25 and 2.75, in the columns 1, 1, 2 and 2.
    got, _ = transform_field(windows, dropped, (2, 4), (0.0, 0.25, 1.0, 0.5))
    assert got[4:].tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 3, 1], [0, 0, 3, 1]]


def test_centers_on_a_border_belong_to_the_right_despite_rounding() -> None:
    # 60 of 100 pixels in 5 columns, from the 2nd pixel: centers at 0.4, 1, 1.6, 2.2, 2.8, where 1 is rounded down.
    alone = torch.tensor([[p, 0, p, 0] for p in range(5)])
    dropped = torch.tensor([False, True, False, False, False])
    assert 0.02 * 5 + 1.5 * 0.6 < 1
    _, gone = transform_field(alone, dropped, (1, 5), (0.0, 0.02, 1.0, 0.6))
    assert gone.tolist() == [False, True, True, False, False]


def test_a_window_outside_the_crop_becomes_its_patch() -> None:
    windows = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [2, 0, 3, 0], [3, 0, 3, 0]])
    got, _ = transform_field(windows, torch.zeros(4, dtype=torch.bool), (1, 4), (0.0, 0.25, 1.0, 0.25))
    assert got[:, [0, 2]].tolist() == [[0, 3]] * 4  # patch 1, whose window extends beyond the crop
    got, _ = transform_field(windows, torch.zeros(4, dtype=torch.bool), (1, 4), (0.0, 0.25, 1.0, 0.5))
    assert got[:, [0, 2]].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize("grid", [(14, 14), (3, 4), (6, 1), (1, 1)])
def test_the_whole_image_and_two_flips_are_the_identity(grid: tuple[int, int]) -> None:
    windows, dropped = random_windows(grid)
    same = transform_field(windows, dropped, grid)
    assert torch.equal(same[0], windows)
    assert torch.equal(same[1], dropped)
    twice = transform_field(*transform_field(windows, dropped, grid, flip=True), grid, flip=True)
    assert torch.equal(twice[0], windows)
    assert torch.equal(twice[1], dropped)


def test_flipped_windows_equal_the_flipped_mask() -> None:
    grid = (3, 4)
    windows, dropped = random_windows(grid)
    mirrored = mask_of(*transform_field(windows, dropped, grid, flip=True), grid)
    mask = mask_of(windows, dropped, grid).view(*grid, *grid)
    assert torch.equal(mirrored.view(*grid, *grid), mask.flip(1, 3))
    assert not torch.equal(mirrored.view(*grid, *grid), mask)


def test_a_crop_of_whole_patches_is_the_enlarged_part_of_the_mask() -> None:
    grid, box = (4, 6), (0.25, 1 / 3, 0.5, 1 / 3)  # rows 1 and 2, columns 2 and 3
    windows, dropped = random_windows(grid)
    got = mask_of(*transform_field(windows, dropped, grid, box), grid).view(*grid, *grid)
    part = mask_of(windows, torch.zeros_like(dropped), grid).view(*grid, *grid)[1:3, 2:4, 1:3, 2:4]
    part = part & ~dropped.view(grid)[1:3, 2:4]
    for side, factor in enumerate((2, 3, 2, 3)):
        part = part.repeat_interleave(factor, side)
    itself = torch.eye(24, dtype=torch.bool).view(*grid, *grid)
    assert torch.equal(got, part | itself)


def test_crops_of_crops() -> None:
    grid = (8, 8)
    windows, dropped = random_windows(grid)
    half = (0.5, 0.0, 0.5, 0.5)
    twice = transform_field(*transform_field(windows, dropped, grid, half), grid, half)
    once = transform_field(windows, dropped, grid, (0.75, 0.0, 0.25, 0.25))
    assert torch.equal(mask_of(*twice, grid), mask_of(*once, grid))


def test_bytes_stay_bytes() -> None:
    windows, dropped = random_windows((14, 14))
    got, gone = transform_field(windows.to(torch.uint8), dropped, (14, 14), (0.1, 0.2, 0.5, 0.6), flip=True)
    wide, _ = transform_field(windows, dropped, (14, 14), (0.1, 0.2, 0.5, 0.6), flip=True)
    assert (got.dtype, gone.dtype) == (torch.uint8, torch.bool)
    assert torch.equal(got.long(), wide)


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 0.0, 1.0), (-0.1, 0.0, 1.0, 1.0), (0.5, 0.0, 0.6, 1.0), (0, float("nan"), 1, 1)]
)
def test_a_box_outside_the_image_raises(box: Box) -> None:
    windows, dropped = random_windows((2, 2))
    with pytest.raises(ValueError, match=r"`box` must be \(top, left, height, width\) inside the image"):
        transform_field(windows, dropped, (2, 2), box)


def test_windows_of_another_grid_raise() -> None:
    windows, dropped = random_windows((2, 2))
    with pytest.raises(ValueError, match=r"rows \* cols = 4 patches, got \(2, 3\)"):
        transform_field(windows, dropped, (2, 3), WHOLE)
    with pytest.raises(ValueError, match="`dropped` must be bool"):
        transform_field(windows, dropped[:3], (2, 2), WHOLE)
