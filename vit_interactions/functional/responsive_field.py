"""Responsive fields: the patches that each patch responds to, their number and their direction.

Source: Ma et al., arXiv 2203.05922, Sec. 4.3, Eqs. 6 and 7.
"""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from vit_interactions.functional.indiscriminative import uniform_columns
from vit_interactions.functional.windows import (
    bounding_boxes,
    covering_windows,
    largest_pairs,
    window_masks,
    window_operations,
    with_self,
)
from vit_interactions.utilities.checks import check_grid, check_uncertainty
from vit_interactions.utilities.html_table import html_table
from vit_interactions.utilities.text import plural

SHOWN = 10  # images per table in a notebook


@dataclass(frozen=True, eq=False)
class ResponsiveField:
    """The responsive fields of all patches of a batch of images.

    Attributes:
        grid: (rows, cols) of the patches.
        candidates: (batch, patches, patches) bool, B_p of Eq. 4: the patch and its most relevant patches. None if only
            the windows are known, as in `field_from_windows`.
        windows: (batch, patches, 4) int64: left, top, right, bottom of the adaptive window, inclusive. With
            `coverage` < 1, some candidates may lie outside.
        dropped: (batch, patches) bool, the indiscriminative patches D.
        mask: (batch, patches, patches) bool, S_p of Eq. 6 in row p.
    """

    grid: tuple[int, int]
    candidates: Tensor | None
    windows: Tensor
    dropped: Tensor
    mask: Tensor

    @property
    def size(self) -> Tensor:
        """|S_p|, number of patches in each field: (batch, patches) int64 in [1, patches]."""
        return self.mask.sum(-1)

    @property
    def operations(self) -> Tensor:
        """Σ_p |S_p|, number of patch interactions in the fields: (batch,) int64. Its mean over images is E_O."""
        return self.mask.sum((-2, -1))

    @property
    def tendency(self) -> Tensor:
        """Unit vector (x, y) of the direction in which each field extends farther: (batch, patches, 2) (Eq. 7).

        x points right and y down. (0, 0) if the field extends equally far to both sides.
        """
        return field_tendency(self.mask, self.grid)

    def _repr_html_(self) -> str:
        """Show the sizes of the first images' fields as a table in notebooks."""
        pairs = self.mask.shape[-1] ** 2
        numbers = zip(self.size, self.dropped.sum(-1), window_operations(self.windows), strict=True)
        rows = [
            [
                str(index),
                f"{size.double().mean():.1f} ({size.min()} – {size.max()})",
                str(int(dropped)),
                f"{window / pairs:.1%}",
                f"{size.sum() / pairs:.1%}",
            ]
            for index, (size, dropped, window) in enumerate(islice(numbers, SHOWN))
        ]
        heads = ["image", "patches in a field", "dropped patches", "pairs in windows", "pairs in fields"]
        kept, (height, width) = len(self.mask), self.grid
        images = plural(kept, "image") + (f", of which {SHOWN} are shown" * (kept > SHOWN))
        return html_table(heads, rows, f"Responsive fields of {height} × {width} patches, {images}.")


def responsive_field(
    uncertainty: Tensor,
    grid: tuple[int, int],
    alpha: float = 0.10,
    beta: float = 0.20,
    field: Literal["window", "candidates"] = "window",
    coverage: float = 1.0,
    exclude: Tensor | None = None,
) -> ResponsiveField:
    """Determine the responsive field of every patch: its window without the indiscriminative patches (Eq. 6).

    The host waits for the device once, to check that all values are finite; for `coverage` < 1, see `smallest_boxes`.

    Args:
        uncertainty: U (batch, patches, patches).
        grid: (rows, cols) of the patches.
        alpha: fraction of all patch pairs that count as relevant, in [0, 1].
        beta: fraction of the patches that are dropped as indiscriminative, in [0, 1].
        field: "window" uses all patches of the adaptive window, as in the paper's text and Table 2; "candidates" uses
            only the relevant patches, as Eq. 6 is printed.
        coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1]; 1 is the paper's
            bounding box. See `adaptive_windows`.
        exclude: (batch, patches) bool, patches that are relevant to no other patch and not ranked for `beta`, such as
            attention sinks; None for none. Windows may still contain them.

    Returns:
        The fields. A patch always belongs to its own field, even if it is dropped from the others.

    Raises:
        ValueError: inconsistent shapes, values that are not finite, `alpha`, `beta` or `coverage` outside [0, 1], or
            an unknown `field`.

    Example:
        >>> uncertainty = torch.zeros(1, 4, 4)
        >>> uncertainty[0, 0, 3] = 1.0  # patch 0, top left, interacts with patch 3, bottom right
        >>> fields = responsive_field(uncertainty, (2, 2), alpha=1 / 16, beta=0.0)
        >>> fields.size, fields.tendency[0, 0]
        (tensor([[4, 1, 1, 1]]), tensor([0.7071, 0.7071]))
    """
    check_uncertainty(uncertainty)
    check_grid(grid, uncertainty.shape[-1])
    if field not in ("window", "candidates"):
        raise ValueError(f'`field` must be "window" or "candidates", got {field!r}.')
    relevant = largest_pairs(uncertainty, alpha, exclude)
    candidates, windows = with_self(relevant), covering_windows(relevant, grid, coverage)
    dropped = uniform_columns(uncertainty, beta, exclude)
    if field == "window":
        return replace(field_from_windows(windows, dropped, grid), candidates=candidates)
    mask = with_self(candidates & ~dropped.unsqueeze(1))
    return ResponsiveField(grid, candidates, windows, dropped, mask)


def field_from_windows(windows: Tensor, dropped: Tensor, grid: tuple[int, int]) -> ResponsiveField:
    """Create the responsive fields {p} ∪ (window of p without D) from windows and dropped patches (Eq. 6).

    Args:
        windows: (batch, patches, 4) integers: left, top, right, bottom in patch units, inclusive.
        dropped: (batch, patches) bool, the indiscriminative patches D.
        grid: (rows, cols) of the patches.

    Returns:
        The fields, without candidates.

    Raises:
        ValueError: inconsistent shapes, or other types.

    Example:
        >>> windows = torch.tensor([[[0, 0, 1, 0], [0, 0, 1, 0], [2, 0, 2, 0]]])  # of three patches in a row
        >>> field_from_windows(windows, torch.tensor([[False, True, False]]), (1, 3)).mask.int()
        tensor([[[1, 0, 0],
                 [1, 1, 0],
                 [0, 0, 1]]], dtype=torch.int32)
    """
    check_windows(windows, dropped, grid)
    mask = with_self(window_masks(windows, grid) & ~dropped.unsqueeze(1))
    return ResponsiveField(grid, None, windows, dropped, mask)


def check_windows(windows: Tensor, dropped: Tensor, grid: tuple[int, int]) -> None:
    """Raise ValueError unless windows (batch, patches, 4) and dropped patches (batch, patches) fit the grid."""
    if windows.ndim != 3 or windows.shape[-1] != 4 or windows.is_floating_point():
        raise ValueError(
            f"`windows` must be integers of shape (batch, patches, 4), got {windows.dtype} {tuple(windows.shape)}."
        )
    check_grid(grid, windows.shape[1])
    if dropped.dtype != torch.bool or dropped.shape != windows.shape[:2]:
        raise ValueError(
            f"`dropped` must be bool of shape {tuple(windows.shape[:2])}, like `windows`, got {dropped.dtype} "
            f"{tuple(dropped.shape)}."
        )


def check_field_grid(field: ResponsiveField, grid: tuple[int, int]) -> None:
    """Raise ValueError unless a field has the grid (rows, cols) of the model that uses it.

    Example:
        >>> field = field_from_windows(torch.zeros(1, 1, 4).long(), torch.zeros(1, 1, dtype=torch.bool), (1, 1))
        >>> check_field_grid(field, (14, 14))
        Traceback (most recent call last):
        ValueError: `field` must have the model's grid of 14 x 14 patches, got 1 x 1.
    """
    if tuple(field.grid) != tuple(grid):
        raise ValueError(
            f"`field` must have the model's grid of {grid[0]} x {grid[1]} patches, got "
            f"{field.grid[0]} x {field.grid[1]}."
        )


def field_tendency(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the direction in which each patch's field extends farther (Eq. 7).

    The four offsets are distances from the patch to the edges of its field. The tendency is (right − left, down − up)
    divided by its Euclidean length, or (0, 0) if that is 0.

    Args:
        mask: (batch, patches, patches) bool, the field S_p in row p, p itself always in it.
        grid: (rows, cols) of the patches.

    Returns:
        (batch, patches, 2) float32: x to the right, y down.

    Example:
        >>> mask = torch.tensor([[[True, True, False], [False, True, False], [False, True, True]]])
        >>> field_tendency(mask, (1, 3))[0, :, 0]
        tensor([ 1.,  0., -1.])
    """
    left, top, right, bottom = bounding_boxes(mask, grid).unbind(-1)
    patch = torch.arange(mask.shape[-1], device=mask.device)
    x, y = patch % grid[1], patch // grid[1]
    reach = torch.stack((left + right - 2 * x, top + bottom - 2 * y), -1).float()
    length: Tensor = torch.linalg.vector_norm(reach, dim=-1, keepdim=True)
    return torch.where(length == 0, reach, reach / length)
