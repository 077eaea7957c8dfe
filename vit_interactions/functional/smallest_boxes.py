"""The smallest rectangle around a patch that contains a given fraction of the marked patches of its row.

It generalizes the bounding box of Ma et al., arXiv 2203.05922, Eq. 4, which one distant patch can stretch over the
whole image.
"""

import torch
from torch import Tensor

from vit_interactions.utilities.checks import check_fraction, check_grid

CHUNK = 2**20  # boxes that are compared at once: about 50 MB


def smallest_boxes(marked: Tensor, grid: tuple[int, int], coverage: float) -> Tensor:
    """Compute the smallest box around each patch that contains a fraction of the marked patches of its row.

    The search is exact. For every pair of a top and a bottom row around the patch, and every left column, prefix sums
    give the first right column that suffices: O(rows² · cols · log cols) per patch. Of boxes with the same area, the
    one with the lowest top is chosen, then with the lowest left, then with the lowest bottom.

    The host waits for the device once per grid row and chunk of images, for the number of boxes that need a search.
    Searching all of them without waiting takes two to four times as long on a CPU.

    Args:
        marked: (batch, patches, patches) bool. A row may be empty; its box is the patch itself. The patch of the row
            counts only if it is marked. Or integers >= 0, the weight of each patch, with row sums below 2³⁰.
        grid: (rows, cols) of the patches.
        coverage: fraction of the marked patches of a row that its box contains at least, in [0, 1]. With 1, the boxes
            are the bounding boxes of the marked patches and the patch; with 0, the patch itself.

    Returns:
        (batch, patches, 4) int64: left, top, right, bottom in patch units, inclusive.

    Raises:
        ValueError: a grid that does not fit, or `coverage` outside [0, 1].

    Example:
        >>> marked = torch.zeros(1, 6, 6, dtype=torch.bool)  # six patches in a row
        >>> marked[0, 1, [0, 1, 2, 5]] = True
        >>> [smallest_boxes(marked, (1, 6), coverage)[0, 1].tolist() for coverage in (0.5, 0.75, 1.0)]
        [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 5, 0]]
    """
    check_grid(grid, marked.shape[-1])
    check_fraction("coverage", coverage)
    rows, cols = grid
    cells = marked.reshape(-1, rows, cols, rows, cols)
    # Rounding must not ask for one patch more than e.g. 0.07 * 100 = 7.000000000000001.
    needed = (coverage * cells.sum((-2, -1)).double() - 1e-9).ceil().int()
    boxes = torch.empty(*cells.shape[:3], 4, dtype=torch.int64, device=marked.device)
    for row in range(rows):
        index = torch.arange(rows, device=marked.device)
        around = torch.cartesian_prod(index[: row + 1], index[row:])
        size = max(1, CHUNK // (len(around) * cols**2))
        for first in range(0, len(cells), size):
            part = slice(first, first + size)
            boxes[part, row] = _smallest(cells[part, row], needed[part, row], row, around)
    return boxes.view(*marked.shape[:-1], 4)


def _smallest(cells: Tensor, needed: Tensor, row: int, around: Tensor) -> Tensor:
    """Return the smallest boxes (images, cols, 4) of the patches of one grid row.

    Args:
        cells: (images, cols, rows, cols), the marked patches of each patch of the grid row.
        needed: (images, cols), number of marked patches that the box contains at least.
        row: the grid row.
        around: (pairs, 2), top and bottom of all boxes around the grid row.
    """
    images, cols, rows, _ = cells.shape
    top, bottom = around.T
    # sums[..., y, x] counts the marked patches above y and left of x.
    sums = torch.zeros(images, cols, rows + 1, cols + 1, dtype=torch.int32, device=cells.device)
    sums[..., 1:, 1:] = cells.cumsum(-2, dtype=torch.int32).cumsum(-1, dtype=torch.int32)
    strips = sums[..., bottom + 1, :] - sums[..., top, :]  # (images, cols, pairs, cols + 1), ascending
    # A box whose first or last row is empty is never the smallest, unless that is the row of the patch.
    useful = sums[..., 1:, -1] > sums[..., :-1, -1]
    useful[..., row] = True
    kept = (strips[..., -1] >= needed.unsqueeze(-1)) & useful[..., top] & useful[..., bottom]
    image, patch, pair = (index.unsqueeze(-1) for index in kept.nonzero(as_tuple=True))
    strips, left = strips[kept], torch.arange(cols, device=cells.device)
    right = (torch.searchsorted(strips, strips[:, :-1] + needed[image, patch]) - 1).maximum(patch)
    area = (right - left + 1) * (bottom - top + 1)[pair]
    # One integer orders the boxes by area, top, left and bottom.
    order = ((area * rows + top[pair]) * cols + left) * rows + bottom[pair]
    order = order.masked_fill((left > patch) | (right >= cols), torch.iinfo(torch.int64).max).amin(-1)
    best = order.new_empty(images * cols)
    best.scatter_reduce_(0, (image * cols + patch).squeeze(-1), order, "amin", include_self=False)
    best, last = best.view(images, cols) // rows, best.view(images, cols) % rows
    best, first = best // cols, best % cols
    area, high = best // rows, best % rows
    return torch.stack((first, high, first + area // (last - high + 1) - 1, last), -1)
