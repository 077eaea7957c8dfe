"""The object is that of the mask, or of the boxes of the class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.images.boxes import ObjectBox
from vit_interactions.images.objects import inside_object
from vit_interactions.images.placement import Placement
from vit_interactions.images.prepared import PreparedImage

LAYOUT = TokenLayout(prefix=1, rows=2, cols=2, readout="token", extent=(8, 8))
PREPARED = PreparedImage(Image.new("RGB", (8, 8)), torch.zeros(3, 8, 8), Placement(8, 8))
UPPER_LEFT, LOWER_RIGHT = ObjectBox(0, 0, 3, 3, index=1), ObjectBox(5, 5, 8, 8, index=2)


def test_boxes_of_the_class_are_the_object() -> None:
    boxes = [UPPER_LEFT, LOWER_RIGHT]
    assert inside_object(PREPARED, LAYOUT, boxes, None, 1).tolist() == [[True, False], [False, False]]
    assert inside_object(PREPARED, LAYOUT, boxes, None, 2).tolist() == [[False, False], [False, True]]
    with pytest.raises(ValueError, match="no box of the target class"):
        inside_object(PREPARED, LAYOUT, boxes, None, 3)


def test_a_mask_takes_the_place_of_the_boxes_for_every_class(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:4, 4:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    for target in (1, 3):
        found = inside_object(PREPARED, LAYOUT, [UPPER_LEFT], tmp_path / "mask.png", target)
        assert found.tolist() == [[False, True], [False, False]]
