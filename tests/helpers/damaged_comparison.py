"""Create a small comparison of noise with boxes and masks, for tests that damage it."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

import vit_interactions as vi
from tests.helpers.noise import write_noise
from vit_interactions.compare.comparison import Comparison

METHODS = ["raw_attention", "random_map"]
METRICS = ["deletion", "pointing_game"]
SIZE = 64


def make_model(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=5, img_size=SIZE, **options).eval()


def compare(root: Path, **options: Any) -> Comparison:
    common: dict[str, Any] = {"methods": METHODS, "metrics": METRICS, "boxes": root / "boxes.csv"}
    return vi.compare(
        [root / "images"], **{"model": {"vit": make_model()}, "out": root / "out", **common, **options}
    )


def make_root(tmp_path: Path) -> Path:
    """Make two images with boxes and masks."""
    write_noise(tmp_path / "images", dict.fromkeys("ab", (80, 70)))
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(np.full((80, 70), 255, np.uint8)).save(tmp_path / f"masks/{name}.png")
    rows = [f"{name}.png,10,10,60,70\n" for name in "ab"]
    (tmp_path / "boxes.csv").write_text("file,left,top,right,bottom\n" + "".join(rows))
    return tmp_path
