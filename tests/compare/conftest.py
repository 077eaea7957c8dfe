"""Fixtures for tests of comparisons."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tests.helpers.damaged_comparison import compare, make_root
from tests.helpers.resumed import make_images
from vit_interactions.compare import run as running
from vit_interactions.compare import scoring as measure


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=5, img_size=64)
    for block in vit.blocks:  # sharper than at the start of training, so that maps differ
        block.attn.qkv.weight.data.mul_(10)
    return vit.eval()


@pytest.fixture
def image_files(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, size in (("square", (70, 70, 3)), ("tall", (120, 70, 3)), ("wide", (70, 120, 3))):
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_images(tmp_path)
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows by one for every measured image."""
    calls: list[object] = []

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return measure.measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "measure", counted)
    return calls


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5)
    for block in model.blocks:
        block.attn.qkv.weight.data.mul_(10)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images and their comparison, which no test changes."""
    root = make_root(tmp_path_factory.mktemp("finished"))
    compare(root)
    return root
