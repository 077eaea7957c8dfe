"""Fixtures for tests of the patch explorer."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

import vit_interactions as vi
from tests.helpers.explored import COLS, ROWS
from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.explorer.data import PageData, page_data
from vit_interactions.explorer.render import render
from vit_interactions.figures import PreparedImage, prepare


@pytest.fixture(scope="session")
def model() -> nn.Module:
    return sharp_vit(img_size=(16 * ROWS, 16 * COLS))


@pytest.fixture(scope="session")
def prepared(model: nn.Module) -> PreparedImage:
    pixels = np.random.default_rng(0).integers(0, 256, (130, 170, 3), dtype=np.uint8)
    # The aspect ratio is not kept, so that patches are not square on the image.
    resize = Compose([Resize((16 * ROWS, 16 * COLS)), ToTensor(), Normalize(0.5, 0.5)])
    return prepare(Image.fromarray(pixels), model, resize)


@pytest.fixture(scope="session")
def found(model: nn.Module, prepared: PreparedImage) -> PageData:
    return page_data(model, prepared, named=False)


@pytest.fixture(scope="session")
def file(found: PageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = vi.ExplorerPage(render(found, title="noise", model="test_vit", alpha=0.013, beta=0.2))
    return page.save(tmp_path_factory.mktemp("explorer") / "page.html")
