"""Libraries that open images by Pillow themselves open no formats that start another program, inside our loaders."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset, IterableDataset

from tests.helpers.tiny_images import tiny_settings
from vit_interactions.images.restricted import only_supported_formats
from vit_interactions.training.data.images import read_sample
from vit_interactions.training.data.loaders import EvaluationLoader, TrainingLoader
from vit_interactions.utilities.processes import Process

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n"
CONFIG = {
    "input_size": (3, 16, 16),
    "interpolation": "bicubic",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "crop_pct": 1.0,
}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "png")
    return file.getvalue()


class Stream(IterableDataset[Any]):
    """Decodes as timm's readers of streams do."""

    transform: Any = None

    def __init__(self, *contents: bytes) -> None:
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for content in self.contents:
            image = Image.open(io.BytesIO(content))
            image.load()
            made = self.transform(image) if self.transform else torch.zeros(3, 16, 16, dtype=torch.uint8).numpy()
            yield made, 0


class Own(Dataset[Any]):
    """Opens images by itself, as some of torchvision's datasets do."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(EPS)), 0


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a false Ghostscript leaves when it is run."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    return tmp_path / "ran"


def test_formats_come_back_after_an_error() -> None:
    Image.init()
    before = list(Image.ID)
    with pytest.raises(KeyError), only_supported_formats():  # noqa: PT012
        assert "EPS" not in Image.ID
        raise KeyError
    assert before == Image.ID
    assert "EPS" in before


def test_without_the_restriction_ghostscript_would_run(ghostscript: Path) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - the false Ghostscript writes no image
        Image.open(io.BytesIO(EPS)).load()
    assert ghostscript.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_hand_nothing_to_ghostscript(workers: int, ghostscript: Path) -> None:
    alone = Process(torch.device("cpu"))
    good = EvaluationLoader(Stream(png(), png()), CONFIG, alone, batch_size=2, workers=workers)
    assert [len(images) for images, _ in good] == [2]
    loaders = (
        EvaluationLoader(Stream(png(), EPS), CONFIG, alone, batch_size=2, workers=workers),
        TrainingLoader(
            Stream(png(), EPS), tiny_settings(Path(), batch_size=2, workers=workers), CONFIG, alone
        ).batches(0, 0),
    )
    for loader in loaders:
        with pytest.raises(UnidentifiedImageError):
            list(loader)
    assert not ghostscript.exists()
    assert "EPS" in Image.ID


def test_datasets_that_open_files_themselves_hand_nothing_to_ghostscript(ghostscript: Path) -> None:
    with pytest.raises(UnidentifiedImageError):
        read_sample(Own(), 0)
    assert not ghostscript.exists()
