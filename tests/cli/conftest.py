"""Fixtures for tests of the command line."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5)
    for name, weight in model.named_parameters():
        if name.endswith("qkv.weight"):
            weight.data.mul_(10)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("wide", (90, 200, 3)), ("tall", (200, 90, 3))):
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())
