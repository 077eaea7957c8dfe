"""Responsive fields: the patches that each patch responds to, how many there are and where they lie.

Source: Ma et al., arXiv 2203.05922, Sec. 4.3, Eqs. 6 and 7.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vit_interactions.functional.checks import check_grid, check_uncertainty
from vit_interactions.functional.indiscriminative import indiscriminative_patches
from vit_interactions.functional.windows import (
    bounding_boxes,
    relevant_pairs,
    window_masks,
    with_self,
)


@dataclass(frozen=True, eq=False)
class ResponsiveField:
    """The responsive fields of all patches of a batch of images.

    Attributes:
        grid: (rows, cols) of the patches.
        candidates: (batch, patches, patches) bool, B_p of Eq. 4: the patch and its most relevant patches.
        windows: (batch, patches, 4) int64: left, top, right, bottom of the adaptive window, inclusive.
        dropped: (batch, patches) bool, the indiscriminative patches D.
        mask: (batch, patches, patches) bool, S_p of Eq. 6 in row p.
    """

    grid: tuple[int, int]
    candidates: Tensor
    windows: Tensor
    dropped: Tensor
    mask: Tensor

    @property
    def size(self) -> Tensor:
        """|S_p|, the number of patches in each field: (batch, patches) int64 in [1, patches]."""
        return self.mask.sum(-1)

    @property
    def operations(self) -> Tensor:
        """Σ_p |S_p|, the patch interactions the fields leave: (batch,) int64. Its mean over images is E_O."""
        return self.mask.sum((-2, -1))

    @property
    def tendency(self) -> Tensor:
        """The unit vector (x, y) in which each field reaches farther: (batch, patches, 2) (Eq. 7).

        x points right and y down. (0, 0) where the field reaches as far to either side.
        """
        return field_tendency(self.mask, self.grid)


def responsive_field(
    uncertainty: Tensor,
    grid: tuple[int, int],
    alpha: float = 0.10,
    beta: float = 0.20,
    field: Literal["window", "candidates"] = "window",
) -> ResponsiveField:
    """Determine the responsive field of every patch: its window without the indiscriminative patches (Eq. 6).

    Args:
        uncertainty: U (batch, patches, patches).
        grid: (rows, cols) of the patches.
        alpha: share of all patch pairs that count as relevant, in [0, 1].
        beta: share of the patches that are dropped as indiscriminative, in [0, 1].
        field: "window" takes all patches of the adaptive window, as the paper's text and Table 2 do;
            "candidates" only the relevant patches themselves, as Eq. 6 is printed.

    Returns:
        The fields. A patch always belongs to its own, even if it is dropped from the others.

    Raises:
        ValueError: shapes that disagree, values that are not finite, `alpha` or `beta` outside [0, 1], an
            unknown `field`.

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
        raise ValueError(f'`field` must be "window" or "candidates", but got {field!r}.')
    candidates = with_self(relevant_pairs(uncertainty, alpha))
    windows = bounding_boxes(candidates, grid)
    dropped = indiscriminative_patches(uncertainty, beta)
    within = window_masks(windows, grid) if field == "window" else candidates
    mask = with_self(within & ~dropped.unsqueeze(1))
    return ResponsiveField(grid, candidates, windows, dropped, mask)


def field_tendency(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Point each patch to where its field reaches farther (Eq. 7).

    The four offsets are lengths measured from the patch to the edges of its field; the tendency is
    (right − left, down − up) divided by its Euclidean length, and (0, 0) where that is 0.

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
