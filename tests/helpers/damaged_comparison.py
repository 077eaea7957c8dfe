"""Create a small comparison of noise with boxes and masks, for tests that damage it."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import vit_interactions as vi
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
