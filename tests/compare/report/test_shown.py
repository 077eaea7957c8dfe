"""Images of a report: masks, and files that are gone."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.compared import METHODS, SIZES, Compared
from tests.helpers.pages import Outline
from vit_interactions.compare.report.page import render


def test_a_missing_file_loses_its_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared(keys="ab")
    image = compared.image

    def gone(key: str) -> Image.Image:
        if key == "a":
            raise FileNotFoundError(key)
        return image(key)

    monkeypatch.setattr(compared, "image", gone)
    text = render(compared)  # type: ignore[arg-type]
    assert text.count("The image file is gone") == 1
    assert len(re.findall('class="map"', text)) == 8


def test_masks_are_outlined_where_they_can_be_read(tmp_path: Path) -> None:
    compared = Compared()
    across, down = SIZES["a"]
    mask = np.zeros((down, across), np.uint8)
    mask[200:600, 120:360] = 255
    for key, image in {"a": Image.fromarray(mask), "b": Image.new("L", (3, 3), 1)}.items():
        image.save(tmp_path / f"{key}.png")
    # That of "b" has another size, "c" has none.
    compared.images = [replace(image, mask=tmp_path / f"{image.key}.png") for image in compared.images]
    text = render(compared)  # type: ignore[arg-type]
    assert Outline(text).open == []
    tags = Outline(text).tags
    assert "the green line is the outline of the object&#39;s mask" in text
    assert "the green line" not in render(Compared())  # type: ignore[arg-type]
    shots = [attributes["style"] or "" for tag, attributes in tags if attributes.get("class") == "shown"]
    assert ["--outline" in style for style in shots] == [True, False, False]
    lines = [attributes["style"] for tag, attributes in tags if attributes.get("class") == "outline"]
    images = [attributes["style"] for tag, attributes in tags if attributes.get("class") == "original"]
    assert lines == images[: 1 + len(METHODS)]  # on the image and on each of its maps
    [uri] = re.findall(r"--outline:url\(data:image/png;base64,([^)]*)\)", shots[0])
    with Image.open(io.BytesIO(base64.b64decode(uri))) as image:
        alpha = np.asarray(image)[..., 3] > 0
    assert alpha.shape == (400, 240)  # half as large: the mask is 200 x 120 pixels at (60, 100)
    rows, cols = np.nonzero(alpha)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (100, 299, 60, 179)
    assert not alpha[110:290, 70:170].any()
    assert alpha[100:300, 60:63].all()
    assert alpha.sum() == 200 * 120 - 194 * 114
