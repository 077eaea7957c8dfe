"""Adaptive attention windows: the part of the image that matters to each patch, as a rectangle.

Source: Ma et al., arXiv 2203.05922, Sec. 4.1, Eqs. 4 and 5. Bounds are inclusive; otherwise the α = 1 row of the
paper's Table 1, 38,416 = 196², would be impossible.
"""

import torch
from torch import Tensor

from vit_interactions.functional.smallest_boxes import smallest_boxes
from vit_interactions.utilities.checks import check_excluded, check_fraction, check_grid, check_uncertainty


def relevant_pairs(uncertainty: Tensor, alpha: float, exclude: Tensor | None = None) -> Tensor:
    """Mark the T = round(α N²) largest of all N² values of each image's U.

    Exactly T values are marked; ties are broken by the lowest flat index. With `exclude`, the T largest of the other
    columns are marked, or all of them if they are fewer.

    Args:
        uncertainty: U (batch, patches, patches).
        alpha: fraction of all pairs, in [0, 1].
        exclude: (batch, patches) bool, patches whose columns are left out, such as attention sinks; None for none.

    Returns:
        (batch, patches, patches) bool.

    Raises:
        ValueError: `uncertainty` has another shape or is not finite, `alpha` is outside [0, 1], or `exclude` has
            another shape.

    Example:
        >>> relevant_pairs(torch.tensor([[[3.0, 1.0], [1.0, 2.0]]]), alpha=0.75).int()
        tensor([[[1, 1],
                 [0, 1]]], dtype=torch.int32)
    """
    check_uncertainty(uncertainty)
    return largest_pairs(uncertainty, alpha, exclude)


def largest_pairs(uncertainty: Tensor, alpha: float, exclude: Tensor | None) -> Tensor:
    """Mark the relevant pairs of a finite U without waiting for the device; see `relevant_pairs`."""
    check_fraction("alpha", alpha)
    check_excluded(exclude, uncertainty)
    left_out = None if exclude is None else exclude.unsqueeze(1)
    values = (uncertainty if left_out is None else uncertainty.masked_fill(left_out, -torch.inf)).flatten(1)
    wanted = round(alpha * values.shape[1])
    if wanted == 0:
        return torch.zeros_like(uncertainty, dtype=torch.bool)
    threshold = values.kthvalue(values.shape[1] - wanted + 1, dim=1, keepdim=True).values
    above, equal = values > threshold, values == threshold
    missing = wanted - above.sum(1, keepdim=True)
    relevant = (above | (equal & (equal.cumsum(1) <= missing))).view_as(uncertainty)
    return relevant if left_out is None else relevant & ~left_out


def bounding_boxes(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the bounding box of the marked patches of each row.

    Args:
        mask: (batch, patches, patches) bool, at least one marked patch per row.
        grid: (rows, cols) of the patches.

    Returns:
        (batch, patches, 4) int64: left, top, right, bottom in patch units, inclusive.

    Example:
        >>> mask = torch.eye(6, dtype=torch.bool)[None]
        >>> bounding_boxes(mask, (2, 3))[0, 4]
        tensor([1, 1, 1, 1])
    """
    rows, cols = grid
    cells = mask.reshape(*mask.shape[:-1], rows, cols)
    left, right = _extremes(cells.any(-2))
    top, bottom = _extremes(cells.any(-1))
    return torch.stack((left, top, right, bottom), -1)


def adaptive_windows(
    uncertainty: Tensor,
    grid: tuple[int, int],
    alpha: float = 0.10,
    coverage: float = 1.0,
    exclude: Tensor | None = None,
) -> Tensor:
    """Compute the smallest window around each patch and the patches most relevant to it (Eq. 4).

    The host waits for the device once, to check that all values are finite; for `coverage` < 1, see `smallest_boxes`.

    Args:
        uncertainty: U (batch, patches, patches).
        grid: (rows, cols) of the patches.
        alpha: fraction of all patch pairs of an image that count as relevant, in [0, 1]. The paper's best: 0.10. The
            size of the windows depends strongly on the model; see `interaction_curve`.
        coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1]. 1, as in the
            paper, is the bounding box, which one distant patch can stretch over the whole image; see `smallest_boxes`.
        exclude: (batch, patches) bool, patches that are relevant to no other patch; see `relevant_pairs`.

    Returns:
        (batch, patches, 4) int64: left, top, right, bottom in patch units, inclusive.

    Raises:
        ValueError: inconsistent shapes, values that are not finite, or `alpha` or `coverage` outside [0, 1].

    Example:
        >>> uncertainty = torch.zeros(1, 4, 4)
        >>> uncertainty[0, 0, 3] = 1.0  # patch 0, top left, interacts with patch 3, bottom right
        >>> adaptive_windows(uncertainty, (2, 2), alpha=1 / 16)[0, :2]
        tensor([[0, 0, 1, 1],
                [1, 0, 1, 0]])
    """
    check_uncertainty(uncertainty)
    check_grid(grid, uncertainty.shape[-1])
    return covering_windows(largest_pairs(uncertainty, alpha, exclude), grid, coverage)


def covering_windows(relevant: Tensor, grid: tuple[int, int], coverage: float) -> Tensor:
    """Compute the smallest window around each patch and a fraction of its relevant patches.

    Args:
        relevant: (batch, patches, patches) bool, from `relevant_pairs`.
        grid: (rows, cols) of the patches.
        coverage: the fraction, in [0, 1]; 1 is the bounding box.

    Returns:
        (batch, patches, 4) int64: left, top, right, bottom in patch units, inclusive.
    """
    check_fraction("coverage", coverage)
    if coverage == 1:  # a shortcut: the smallest box with all relevant patches is the bounding box
        return bounding_boxes(with_self(relevant), grid)
    return smallest_boxes(relevant, grid, coverage)


def with_self(mask: Tensor) -> Tensor:
    """Mark each patch in its own row of a (batch, patches, patches) bool mask."""
    return mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)


def window_masks(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Convert windows to masks over patches.

    Args:
        windows: (batch, patches, 4): left, top, right, bottom, inclusive.
        grid: (rows, cols) of the patches.

    Returns:
        (batch, patches, patches) bool: True if patch i (column) is in the window of patch p (row).

    Example:
        >>> window_masks(torch.tensor([[[0, 0, 1, 0]]]).expand(1, 4, 4), (2, 2))[0, 0].int()
        tensor([1, 1, 0, 0], dtype=torch.int32)
    """
    rows, cols = grid
    left, top, right, bottom = windows.unsqueeze(-1).unbind(-2)
    col = torch.arange(cols, device=windows.device)
    row = torch.arange(rows, device=windows.device)
    inside_cols = (left <= col) & (col <= right)
    inside_rows = (top <= row) & (row <= bottom)
    return (inside_rows.unsqueeze(-1) & inside_cols.unsqueeze(-2)).flatten(-2)


def window_operations(windows: Tensor) -> Tensor:
    """Count the patch interactions O = Σ_p (right − left + 1)(bottom − top + 1) in windows (Eq. 5).

    Args:
        windows: (batch, patches, 4): left, top, right, bottom, inclusive.

    Returns:
        (batch,) int64, between the number of patches and its square.

    Example:
        >>> window_operations(torch.tensor([[[0, 0, 1, 2], [3, 3, 3, 3]]]))
        tensor([7])
    """
    left, top, right, bottom = windows.unbind(-1)
    return ((right - left + 1) * (bottom - top + 1)).sum(-1)


def _extremes(present: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last marked position along the last axis."""
    position = torch.arange(present.shape[-1], device=present.device).expand(present.shape)
    first = position.masked_fill(~present, present.shape[-1]).amin(-1)
    last = position.masked_fill(~present, -1).amax(-1)
    return first, last
