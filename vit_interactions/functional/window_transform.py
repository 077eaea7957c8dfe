"""Crop and flip the windows of an image together with the image."""

import torch
from torch import Tensor

from vit_interactions.functional.responsive_field import check_windows

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def transform_field(
    windows: Tensor, dropped: Tensor, grid: tuple[int, int], box: Box = WHOLE, flip: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the windows and dropped patches of a crop of an image; the crop has the same grid of patches.

    Each patch of the crop corresponds to the patch of the image that contains its center (on a border, the one to the
    right or below), and inherits its windows by nearest-neighbor sampling: patch i' of the crop is in the window of p'
    if the patch of i' is in the window of the patch of p', and is dropped if that patch is. So windows remain
    rectangles, clipped to the crop, and a patch is always in its own window. If nothing else of a window is in the
    crop, it contains the patch and all others that correspond to the same patch of the image. The flip follows the
    crop.

    Args:
        windows: (patches, 4) integers: left, top, right, bottom in patch units, inclusive; each contains its patch.
        dropped: (patches,) bool.
        grid: (rows, cols) of the patches of the image, and of the crop.
        box: (top, left, height, width) of the crop, as fractions of the image's height and width, in [0, 1].
        flip: flip the crop horizontally.

    Returns:
        The windows, of the same type, and the dropped patches of the crop. They are unchanged for the whole image
        without a flip.

    Raises:
        ValueError: inconsistent shapes, or a box that is empty or extends beyond the image.

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
    left_, right_ = _crop_bounds(bounds[:, 0], bounds[:, 2], col_of)
    top_, bottom_ = _crop_bounds(bounds[:, 1], bounds[:, 3], row_of)
    cropped, cropped_dropped = torch.stack((left_, top_, right_, bottom_), -1), dropped[patch_of]
    if flip:
        cropped, cropped_dropped = _flip(cropped, grid), cropped_dropped.view(grid).flip(1).flatten()
    return cropped.to(windows.dtype), cropped_dropped


def check_box(box: Box) -> None:
    """Raise ValueError unless a box (top, left, height, width) in fractions of the image is inside it and not empty."""
    top, left, height, width = box
    # The size of a crop of the whole image may exceed 1 by a rounding error.
    most = 1 + 1e-9
    if not (0 <= top < top + height <= most and 0 <= left < left + width <= most):
        raise ValueError(
            f"`box` must be (top, left, height, width) inside the image, as fractions of its sides in [0, 1], with "
            f"height and width > 0, got {tuple(box)}."
        )


def _sources(count: int, start: float, length: float) -> Tensor:
    """Map the patches of a crop, along one side, to the patches of the image at their centers: (count,), ascending."""
    # 1e-9 of a patch, so that rounding does not decide the side of centers on a border.
    centers = start * count + (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) * length + 1e-9
    return centers.floor().long().clamp(0, count - 1)


def _crop_bounds(first: Tensor, last: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last position whose source is in [first, last]."""
    start = torch.searchsorted(sources, first.contiguous())
    end = torch.searchsorted(sources, last.contiguous(), right=True) - 1
    return start, end


def _flip(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    left, top, right, bottom = windows.view(*grid, 4).flip(1).reshape(-1, 4).unbind(-1)
    return torch.stack((grid[1] - 1 - right, top, grid[1] - 1 - left, bottom), -1)
