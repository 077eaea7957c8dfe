"""A small comparison of noise with boxes, in Python and as a command line."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vit_interactions as vi
from tests.helpers.compared import make_model
from vit_interactions.compare.comparison import Comparison

METHODS = ["raw_attention", "responsive_field_size", "random_map"]
METRICS = ["deletion", "pointing_game"]


def make_images(folder: Path) -> list[Path]:
    """Four images of noise, with boxes beside them."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for name in "abcd":
        pixels = random.integers(0, 256, (80, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    rows = [f"{name}.png,10,10,40,50\n" for name in "abcd"]
    (folder / "boxes.csv").write_text("file,left,top,right,bottom\n" + "".join(rows))
    return sorted((folder / "images").iterdir())


def compare(root: Path, **options: Any) -> Comparison:
    """Compare on the images of a folder, into it."""
    common = {"boxes": root / "boxes.csv", "out": root / "out", "methods": METHODS, "metrics": METRICS}
    return vi.compare([root / "images"], **{"model": make_model(), **common, **options})


def arguments(root: Path, checkpoint: Path, out: str) -> list[str]:
    """Return a command line."""
    chosen = [part for name in METHODS for part in ("--method", name)]
    chosen += [part for name in METRICS for part in ("--metric", name)]
    model = ["--model", "test_vit", "--checkpoint", str(checkpoint)]
    boxes = ["--boxes", str(root / "boxes.csv")]
    return ["compare", str(root / "images"), *model, *chosen, *boxes, "--out", str(root / out)]
