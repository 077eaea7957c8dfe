"""A folder with one image and many kinds of other files."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.refused_images import EPS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Create a folder with one image and many kinds of other files."""
    folder = tmp_path / "photos" / "train" / "class"
    (folder / "folder.png").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "good.png")
    (folder / "holiday.jpg").write_bytes(EPS)
    Image.new("RGB", (1, 1_000_000)).save(folder / "line.png")
    (folder / "link.png").symlink_to("gone.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "text.jpg").write_text("no image")
    for name in ("drawing.eps", "notes.txt", "page.pdf", "table.csv", ".hidden"):
        (folder / name).write_bytes(EPS)
    return folder
