"""A small comparison of noise with boxes, in Python and as a command line."""

from pathlib import Path
from typing import Any

import vit_interactions as vi
from tests.helpers.compared import make_model
from tests.helpers.noise import write_noise
from vit_interactions.compare.comparison import Comparison

METHODS = ["raw_attention", "responsive_field_size", "random_map"]
METRICS = ["deletion", "pointing_game"]


def make_images(folder: Path) -> list[Path]:
    """Create four images of noise, with their boxes in a table."""
    images = write_noise(folder / "images", dict.fromkeys("abcd", (80, 70)))
    rows = [f"{name}.png,10,10,40,50\n" for name in "abcd"]
    (folder / "boxes.csv").write_text("file,left,top,right,bottom\n" + "".join(rows))
    return images


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
