"""Masks match the ends of image paths."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.mask_files import png
from vit_interactions.images.masks import masks_by_image


def test_masks_match_the_end_of_image_paths(tmp_path: Path) -> None:
    one, other = Path("/data/cats/1.jpg"), Path("/data/dogs/1.JPEG")
    alone = Path("/data/dogs/2.tar.png")
    masks = tmp_path / "masks"
    for name in ("cats/1.png", "dogs/1.PNG", "2.tar.png", "3.png"):
        png(masks / name, np.ones((1, 1), np.uint8))
    assert masks_by_image(masks, [one, other, alone, Path("/data/4.jpg")]) == {
        one: masks / "cats/1.png",
        other: masks / "dogs/1.PNG",
        alone: masks / "2.tar.png",
        Path("/data/4.jpg"): masks / "4.png",  # the expected path
    }
    png(masks / "1.png", np.ones((1, 1), np.uint8))
    with pytest.raises(
        ValueError, match=r"got '1', which matches 2, e\.g\. '/data/cats/1\.jpg' and '/data/dogs/1\.JPEG'"
    ):
        masks_by_image(masks, [one, other])
    with pytest.raises(ValueError, match=r"must have one mask per image, got .*1\.png and .*1\.png for"):
        masks_by_image(masks, [one])
    with pytest.raises(ValueError, match=r"named like the images, e\.g\. '5\.png', got e\.g\. '1\.png' in"):
        masks_by_image(masks, [Path("/data/5.jpg")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"got no PNG file in .*empty"):
        masks_by_image(tmp_path / "empty", [one])
    with pytest.raises(ValueError, match="must be a folder of PNG files, got"):
        masks_by_image(masks / "1.png", [one])
    with pytest.raises(ValueError, match="must not be the folder of the images"):
        masks_by_image(masks, [masks / "3.png"])
