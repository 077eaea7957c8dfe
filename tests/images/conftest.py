"""Fixtures for tests of images: a folder with one image and many kinds of other files, and a fake Ghostscript."""

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


@pytest.fixture
def fake_gs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add a fake Ghostscript at the front of the PATH; return the file that it creates when it runs."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch "{tmp_path}/mark"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return tmp_path / "mark"
