"""Fixtures of the whole suite: the families of ViTs, and the trained model and images where they exist."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.helpers.data import IMAGES, WEIGHTS
from tests.helpers.families import FAMILIES, Family


def pytest_configure() -> None:
    """Leave each worker one core, so that workers do not fight over them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `family` once for every family."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Give every test the same random numbers, and check that none leaves gradients switched off."""
    torch.manual_seed(0)
    yield
    assert torch.is_grad_enabled()


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    """Return all families by name."""
    return FAMILIES


def _need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {path}, which is absent; set VIT_INTERACTIONS_DATA to the folder with the data")
    return path


@pytest.fixture(scope="session")
def trained_vit() -> nn.Module:
    """Load a ViT-Ti/16 trained on 200 classes of ImageNet at 224 x 224 pixels."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=200)
    model.load_state_dict(load_file(_need(WEIGHTS)))
    return model.eval()


@pytest.fixture(scope="session")
def real_images() -> Callable[[int], Tensor]:
    """Return a loader of the last n images in alphabetical order, transformed for `trained_vit`."""
    from PIL import Image

    paths = sorted(_need(IMAGES).glob("*.jpg"))
    transform = timm.data.create_transform(
        input_size=(3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=224 / 256, interpolation="bicubic"
    )

    def load(count: int) -> Tensor:
        return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths[-count:]])

    return load


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """Create an output folder among user files, and check at the end that they are unchanged."""
    out = tmp_path / "home" / "out"
    theirs = {
        out.parent / "thesis.txt": "a",
        out / "notes.txt": "b",
        out / "theirs" / "data.csv": "c",
        out / ".mine.partial" / "data.csv": "d",
        out / ".mine.replaced" / "data.csv": "e",
    }
    for path, text in theirs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield out
    assert {path: path.read_text() for path in theirs} == theirs
    assert [path.name for path in out.parent.iterdir() if path.name not in ("out", "thesis.txt")] == []
