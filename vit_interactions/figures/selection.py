"""Select the image of a batch and the patches to draw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.values import pairs_array
from vit_interactions.functional.responsive_field import ResponsiveField
from vit_interactions.utilities.arrays import Array


def one_image(field: ResponsiveField, layout: TokenLayout, index: int | None) -> ResponsiveField:
    """Return the responsive fields of one image of a batch, on the CPU.

    Args:
        field: the responsive fields of a batch.
        layout: token layout of the model, which `field` must match.
        index: index of the image; None for the only one.

    Returns:
        A batch of one.

    Raises:
        ValueError: the grid is not that of the layout, several images without `index`, or `index` out of range.
    """
    if tuple(field.grid) != layout.grid:
        raise ValueError(f"`field` must have the grid {layout.grid} of `layout`, got {tuple(field.grid)}.")
    batch = field.mask.shape[0]
    if index is None and batch != 1:
        raise ValueError(f"`index` must select one of the {batch} images of `field`, got None.")
    index = index or 0
    if not 0 <= index < batch:
        raise ValueError(f"`index` must lie in [0, {batch - 1}], the images of `field`, got {index}.")
    tensors = field.candidates, field.windows, field.dropped, field.mask
    parts: list[Any] = [None if each is None else each[index : index + 1].detach().cpu() for each in tensors]
    return ResponsiveField(layout.grid, *parts)


def patches_to_draw(
    pairs: Tensor,
    layout: TokenLayout,
    patches: Sequence[tuple[int, int]] | None,
    exclude: Tensor | None = None,
) -> list[tuple[int, int]]:
    """Return the patches that a figure shows: the given ones, or those of `choose_patches` for None.

    Raises:
        ValueError: no patch is given.
    """
    chosen = choose_patches(pairs, layout, exclude=exclude) if patches is None else list(patches)
    if not chosen:
        raise ValueError("`patches` must contain at least one (row, col), got none.")
    return chosen


def choose_patches(
    uncertainty: Tensor, layout: TokenLayout, count: int = 4, *, exclude: Tensor | None = None
) -> list[tuple[int, int]]:
    """Choose patches to show: the most discriminative ones, far apart from each other, and the least discriminative.

    A patch is discriminative if its column of U varies strongly (Sec. 4.2 of the paper). Patches are chosen greedily,
    at least a quarter of the grid's longer side apart. The last one is the least discriminative, for contrast. The
    choice is deterministic.

    Args:
        uncertainty: (patches, patches), U of one image.
        layout: token layout of the model.
        count: number of patches; fewer if the grid is too small.
        exclude: (1, patches) bool, patches that are not chosen, such as attention sinks; None for none.

    Returns:
        (row, col) per patch.

    Raises:
        ValueError: `uncertainty` does not match the layout or is not finite, or `count` < 1.

    Example:
        >>> import torch
        >>> layout = TokenLayout(prefix=1, rows=1, cols=8, readout="token", extent=(16, 128))
        >>> choose_patches(torch.eye(8) * torch.arange(8.0), layout, count=3)
        [(0, 7), (0, 5), (0, 0)]
    """
    if count < 1:
        raise ValueError(f"`count` must be >= 1, got {count}.")
    variance = pairs_array(uncertainty, layout).var(0)
    cells = np.stack(np.divmod(np.arange(layout.patches), layout.cols), axis=1)
    order = np.argsort(-variance, kind="stable")
    if exclude is not None:
        order = order[~exclude[0].cpu().numpy()[order]]
    chosen = [order[0]]

    def take_apart(candidates: Array, wanted: int) -> None:
        for patch in candidates:
            apart = np.linalg.norm(cells[chosen] - cells[patch], axis=1).min() >= max(layout.grid) / 4
            if apart and len(chosen) < wanted:
                chosen.append(patch)

    take_apart(order, count - 1)
    take_apart(order[::-1], len(chosen) + 1 if count > 1 else 1)
    return [(int(row), int(col)) for row, col in cells[chosen]]
