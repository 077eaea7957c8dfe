"""Which image of a batch is drawn, and which of its patches where none were chosen."""

import numpy as np
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.values import Array, to_array
from vit_interactions.functional.responsive_field import ResponsiveField


def one_image(field: ResponsiveField, layout: TokenLayout, index: int | None) -> ResponsiveField:
    """Take one image's responsive fields out of a batch, on the host.

    Args:
        field: the fields of a batch of images.
        layout: the model's, which `field` must agree with.
        index: the image in the batch; None: the only one.

    Returns:
        A batch of one.

    Raises:
        ValueError: another grid than the layout's, several images and no `index`, or one outside the batch.
    """
    if tuple(field.grid) != layout.grid:
        raise ValueError(f"`field` must have the grid {layout.grid} of `layout`, but got {tuple(field.grid)}.")
    batch = field.mask.shape[0]
    if index is None and batch != 1:
        raise ValueError(f"`index` must say which of the {batch} images of `field` is meant, but got None.")
    index = index or 0
    if not 0 <= index < batch:
        raise ValueError(f"`index` must lie in [0, {batch - 1}], the images of `field`, but got {index}.")
    windows, dropped, mask = (
        part[index : index + 1].detach().cpu() for part in (field.windows, field.dropped, field.mask)
    )
    candidates = None if field.candidates is None else field.candidates[index : index + 1].detach().cpu()
    return ResponsiveField(layout.grid, candidates, windows, dropped, mask)


def choose_patches(uncertainty: Tensor, layout: TokenLayout, count: int = 4) -> list[tuple[int, int]]:
    """Choose patches worth looking at: informative ones that lie apart, and the least informative one.

    A patch is informative if its column of U varies much (Sec. 4.2 of the paper). The most informative is taken
    first, then the next that lies at least a quarter of the grid's longer side from all taken; the last is the
    least informative that lies so far from them, for contrast. The same U always gives the same patches.

    Args:
        uncertainty: U (patches, patches) of one image.
        layout: the model's.
        count: how many; fewer where the grid has no more room.

    Returns:
        (row, col) of each.

    Raises:
        ValueError: `uncertainty` of another shape or not finite, or `count` below 1.

    Example:
        >>> import torch
        >>> layout = TokenLayout(prefix=1, rows=1, cols=8, readout="token", extent=(16, 128))
        >>> choose_patches(torch.eye(8) * torch.arange(8.0), layout, count=3)
        [(0, 7), (0, 5), (0, 0)]
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1, but got {count}.")
    variance = to_array("uncertainty", uncertainty, (layout.patches, layout.patches)).var(0)
    cells = np.stack(np.divmod(np.arange(layout.patches), layout.cols), axis=1)
    order = np.argsort(-variance, kind="stable")
    chosen = [order[0]]

    def take_apart(candidates: Array, wanted: int) -> None:
        for patch in candidates:
            apart = np.linalg.norm(cells[chosen] - cells[patch], axis=1).min() >= max(layout.grid) / 4
            if apart and len(chosen) < wanted:
                chosen.append(patch)

    take_apart(order, count - 1)
    take_apart(order[::-1], len(chosen) + 1 if count > 1 else 1)
    return [(int(row), int(col)) for row, col in cells[chosen]]
