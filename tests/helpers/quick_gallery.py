"""An explanation of one number per image, so that tests of folders are quick."""

import os
import random
from pathlib import Path

import numpy as np
from torch import nn

from tests.helpers.hostile_names import PIECES
from vit_interactions.explain.settings import Settings
from vit_interactions.gallery.folder import is_complete
from vit_interactions.gallery.run import ExplainResult, explain_images


class Figure:
    """A figure that writes a number instead of drawing."""

    def __init__(self, value: float) -> None:
        self.value = value

    def savefig(self, path: Path, dpi: int) -> None:
        path.write_bytes(f"{self.value} {dpi}".encode())


def explain(images: list[Path], out: Path, *, alpha: float = 0.25, resume: bool = False) -> ExplainResult:
    report = ExplainResult()
    settings = Settings("model", methods=("raw_attention",), alpha=alpha)
    for report in explain_images(nn.Identity(), images, settings, out, resume=resume):  # noqa: B007
        pass
    return report


def image(path: Path, size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def value(folder: Path) -> float:
    """Return the number in a folder, which is the same in all its files."""
    assert is_complete(folder)
    with np.load(folder / "maps.npz") as arrays:
        found = float(arrays["raw_attention"].mean())
    assert (folder / "raw_attention.png").read_bytes() == f"{found} 120".encode()
    assert (folder / "field.png").read_bytes() == f"{-found} 120".encode()
    return found


def hidden(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if path.name.startswith(".")]


def file_names(count: int) -> list[str]:
    """Return hostile file names that the file system accepts."""
    draw = random.Random(1)
    pieces = [piece for piece in PIECES if "/" not in piece] + [
        "..jpg",
        "...jpg",
        "x" * 247 + "1",
        "x" * 247 + "2",
    ]
    drawn = [
        "".join(draw.choices(pieces, k=draw.randint(1, 3))) + draw.choice([".jpg", ".png"]) for _ in range(count)
    ]
    return [name for name in drawn if len(os.fsencode(name)) < 256]
