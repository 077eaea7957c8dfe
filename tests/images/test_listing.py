"""Folders list files with the extensions of images."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.helpers.command_line import no_hang
from vit_interactions.cli import main as cli
from vit_interactions.compare.comparison import Comparison
from vit_interactions.images.listing import find_images, skipped_files
from vit_interactions.training.data.window_store import WindowStore

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"

# file -> its error
REFUSED = {
    "holiday.jpg": "is EPS/PostScript, which is not a supported image format. Convert it to PNG or JPEG.",
    "line.png": "`image` must be at most 200 times as long as it is wide, got 1 x 1000000 pixels. Crop it.",
    "link.png": "must be a file, got a broken link to gone.png at",
    "pipe.png": "must be a file, got a named pipe at",
    "text.jpg": "cannot identify its format",
}

SKIPPED = "skipped 4 files that are not images: drawing.eps, notes.txt, page.pdf, ..."


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


def test_folders_list_files_with_image_extensions(photos: Path) -> None:
    assert [path.name for path in find_images([photos])] == ["good.png", *REFUSED]
    assert skipped_files([photos]) == SKIPPED
    assert skipped_files([photos / "notes.txt"]) == ""  # given by name, so it fails instead
    (photos / "other").mkdir()
    (photos / "other" / "\x1b[31m.txt").touch()
    assert skipped_files([photos / "other"]) == "skipped 1 file that is not an image: \ufffd[31m.txt"
