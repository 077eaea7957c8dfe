"""Locate the object of an image by its boxes or its mask."""

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
    """Return the patches on the object: center in a box of the class, or at least half covered by the mask.

    Args:
        prepared: the image, from `prepare`.
        layout: token layout of the model.
        boxes: boxes of all classes; not used with a mask.
        mask: mask file, valid for every class; None to use the boxes.
        target: target class index.

    Returns:
        (rows, cols) bool.

    Raises:
        ValueError: the mask cannot be used, or no box has the class.
    """
    if mask is not None:
        return inside_mask(prepared, layout, read_mask(mask, prepared.image.size))
    chosen = boxes_of_class(boxes, target)
    if not chosen:
        raise ValueError("this image has no box of the target class.")
    return inside_boxes(prepared, layout, chosen)
