"""Fixtures for tests of comparisons."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from tests.helpers.compared import make_model
from tests.helpers.damaged_comparison import compare
from tests.helpers.noise import write_noise
from tests.helpers.resumed import make_images
from tests.helpers.sharp_vit import save_sharp_vit
from vit_interactions.compare import run as running
from vit_interactions.compare import scoring


def make_root(tmp_path: Path) -> Path:
    """Make two images with boxes and masks."""
    write_noise(tmp_path / "images", dict.fromkeys("ab", (80, 70)))
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(np.full((80, 70), 255, np.uint8)).save(tmp_path / f"masks/{name}.png")
    rows = [f"{name}.png,10,10,60,70\n" for name in "ab"]
    (tmp_path / "boxes.csv").write_text("file,left,top,right,bottom\n" + "".join(rows))
    return tmp_path


@pytest.fixture
def model() -> nn.Module:
    return make_model()


@pytest.fixture
def image_files(tmp_path: Path) -> list[Path]:
    return write_noise(tmp_path / "files", {"square": (70, 70), "tall": (120, 70), "wide": (70, 120)})


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
        return scoring.score_maps(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "score_maps", counted)
    return calls


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_sharp_vit(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images and their comparison, which no test changes."""
    root = make_root(tmp_path_factory.mktemp("finished"))
    compare(root)
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of a folder with images and their comparison."""
    return shutil.copytree(finished, tmp_path / "root")
