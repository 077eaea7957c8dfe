"""Fixtures for tests of comparisons."""

from pathlib import Path

import pytest
from torch import nn

from tests.helpers.compared import make_model
from tests.helpers.damaged_comparison import compare, make_root
from tests.helpers.noise import write_noise
from tests.helpers.resumed import make_images
from tests.helpers.sharp_vit import save_sharp_vit
from vit_interactions.compare import run as running
from vit_interactions.compare import scoring


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
