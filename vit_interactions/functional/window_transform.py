"""What becomes of the windows of an image when the image is cropped and mirrored."""

import torch
from torch import Tensor

from vit_interactions.functional.responsive_field import check_windows

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def transform_field(
    windows: Tensor, dropped: Tensor, grid: tuple[int, int], box: Box = WHOLE, flip: bool = False
) -> tuple[Tensor, Tensor]:
    """Carry windows and dropped patches from an image to a crop of it, which is cut into the same grid.

    A patch of the crop stands for the patch of the image in which its centre lies (on a border, the one to the right or
    below). It takes part in what that one takes part in: patch i' of the crop is in the window of p' if and only if the
    patch of i' is in the window of the patch of p', and is dropped if that one is. So windows stay rectangles, cut at
    the edges of the crop; a patch is always in its own; a window of which nothing else is left in the crop is the patch
    itself, with all patches of the crop that stand for the same one. The mirroring comes after the crop.

    Args:
        windows: (patches, 4) integers: left, top, right, bottom in patch units, inclusive; each patch in its own.
        dropped: (patches,) bool.
        grid: (rows, cols) of the patches, of the image as of the crop.
        box: (top, left, height, width) of the crop as shares of the image's height and width, in [0, 1].
        flip: whether the crop is mirrored left to right.

    Returns:
        The windows, of the same type, and the dropped patches of the crop. The whole image, not mirrored, returns what
        it got.

    Raises:
        ValueError: shapes that disagree, or a box that is empty or leaves the image.

    Example:
        >>> windows = torch.tensor([[0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 3, 0], [3, 0, 3, 0]])  # four patches in a row
        >>> dropped = torch.tensor([False, False, True, False])
        >>> right_half = transform_field(windows, dropped, (1, 4), box=(0.0, 0.5, 1.0, 0.5))  # of patches 2, 2, 3, 3
        >>> right_half[0][:, [0, 2]].tolist(), right_half[1].tolist()
        ([[0, 3], [0, 3], [2, 3], [2, 3]], [True, True, False, False])
    """
    check_windows(windows.unsqueeze(0), dropped.unsqueeze(0), grid)
    check_box(box)
    top, left, height, width = box
    row_of = _sources(grid[0], top, height).to(windows.device)
    col_of = _sources(grid[1], left, width).to(windows.device)
    patch_of = (row_of.unsqueeze(1) * grid[1] + col_of).flatten()
    bounds = windows[patch_of].long()
    left_, right_ = _carry(bounds[:, 0], bounds[:, 2], col_of)
    top_, bottom_ = _carry(bounds[:, 1], bounds[:, 3], row_of)
    carried, gone = torch.stack((left_, top_, right_, bottom_), -1), dropped[patch_of]
    if flip:
        carried, gone = _mirror(carried, grid), gone.view(grid).flip(1).flatten()
    return carried.to(windows.dtype), gone


def check_box(box: Box) -> None:
    """Raise ValueError unless a box (top, left, height, width) in shares of the image lies in it and is not empty."""
    top, left, height, width = box
    # A crop of the whole image may miss 1 by a rounding error.
    most = 1 + 1e-9
    if not (0 <= top < top + height <= most and 0 <= left < left + width <= most):
        raise ValueError(
            f"`box` must be (top, left, height, width) inside the image, in shares of its sides in [0, 1], with height "
            f"and width > 0, but got {tuple(box)}."
        )


def _sources(count: int, start: float, length: float) -> Tensor:
    """Find in which of `count` parts of a side the centres of the parts of a piece of it lie: (count,), ascending."""
    # A billionth of a part, so that centres on a border do not fall to either side by rounding.
    centers = start * count + (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) * length + 1e-9
    return centers.floor().long().clamp(0, count - 1)


def _carry(first: Tensor, last: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first and the last position whose source lies in [first, last]."""
    begin = torch.searchsorted(sources, first.contiguous())
    end = torch.searchsorted(sources, last.contiguous(), right=True) - 1
    return begin, end


def _mirror(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    left, top, right, bottom = windows.view(*grid, 4).flip(1).reshape(-1, 4).unbind(-1)
    return torch.stack((grid[1] - 1 - right, top, grid[1] - 1 - left, bottom), -1)
