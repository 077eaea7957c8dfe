"""Where the object of an image is, by its boxes or by its mask."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.images.boxes import ObjectBox, boxes_of_class, inside_boxes
from vit_interactions.images.masks import inside_mask, read_mask
from vit_interactions.images.prepared import PreparedImage


def inside_object(
    prepared: PreparedImage,
    layout: TokenLayout,
    boxes: Sequence[ObjectBox],
    mask: Path | None,
    target: int | None,
) -> Tensor:
    """Mark the patches on the object: with their centre in a box of the class, or half covered by the mask.

    Args:
        prepared: from `figures.prepare`.
        layout: where the patches are in the model's input.
        boxes: of any class.
        mask: its file, which is of every class; None where boxes count.
        target: the class that is explained.

    Returns:
        (rows, cols) bool.

    Raises:
        ValueError: a mask that cannot be used, or no box of the class.
    """
    if mask is not None:
        return inside_mask(prepared, layout, read_mask(mask, prepared.image.size))
    chosen = boxes_of_class(boxes, target)
    if not chosen:
        raise ValueError("this image has no box of the explained class.")
    return inside_boxes(prepared, layout, chosen)
