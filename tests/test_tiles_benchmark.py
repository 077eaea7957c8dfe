"""The count of tiles that windows touch: `tests/benchmarks/tiles.py`."""

import pytest
import torch

from tests.benchmarks.tiles import TILES, in_order, in_squares, touched


def test_tiles_by_hand() -> None:
    # Patches 0, 1 | 2, 3. Only patch 0 attends to patch 3: one of four tiles.
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 3] = True
    tiles = torch.tensor([0, 0, 1, 1])
    assert touched(mask, tiles) == 0.25
    mask[0, 1, 2] = True  # the same tile
    assert touched(mask, tiles) == 0.25
    mask[0, 3, 0] = True
    assert touched(mask, tiles) == 0.5
    assert touched(mask, torch.tensor([0, 1, 0, 1])) == 0.5  # 0 to 3 in one tile, 1 to 2 and 3 to 0 in the other
    assert touched(torch.ones(1, 4, 4, dtype=torch.bool), tiles) == 1.0


@pytest.mark.parametrize("size", TILES)
def test_orders_of_patches(size: int) -> None:
    height, width = TILES[size]
    assert height * width == size
    grid = (20, 37)
    squares, follow = in_squares(grid, size).view(grid), in_order(grid, size)
    assert squares.unique().tolist() == list(range(3 * -(-37 // width)))
    assert (squares[:8, :width] == 0).all()
    assert squares[0, width] == 1
    assert squares[8, 0] == -(-37 // width)
    assert squares.flatten().bincount().max() == size
    assert follow.bincount().tolist() == [size] * (740 // size) + [740 % size] * (740 % size > 0)


def test_a_window_in_one_square_touches_one_square_but_several_strips() -> None:
    # On 16 x 16 patches, all patches of the upper left square attend to one another.
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[:8, :8] = True
    mask = (inside.flatten().unsqueeze(1) & inside.flatten()).unsqueeze(0)
    assert touched(mask, in_squares((16, 16), 64)) == 1 / 16
    assert touched(mask, in_order((16, 16), 64)) == 4 / 16  # the square lies in two strips of four rows
