"""`vit-interactions curve`: a figure and a table, and the images that cannot be read."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.command_line import run


def test_curve_writes_a_figure_and_a_table(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "test_vit", "--checkpoint", checkpoint, "--out", tmp_path / "curve.png"]
    assert run("curve", *images, *options, "--alpha", "1.0", "--alpha", "0.0") == 0
    table = capsys.readouterr().out
    assert table.index("100") < table.index("10,000")  # alpha 0: every patch alone; alpha 1: all pairs of 100
    with Image.open(tmp_path / "curve.png") as image:
        assert min(image.size) > 300
    (tmp_path / "broken.png").write_text("no image")
    assert run("curve", *images, tmp_path / "broken.png", *options) == 1
    assert "broken.png" in capsys.readouterr().err


def test_window_coverage_makes_windows_smaller(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--model",
        "test_vit",
        "--checkpoint",
        checkpoint,
        "--out",
        tmp_path / "curve.png",
        "--alpha",
        "0.3",
    ]
    assert run("curve", *images, *options) == 0
    paper = capsys.readouterr().out
    assert run("curve", *images, *options, "--window-coverage", "1.0") == 0
    assert capsys.readouterr().out == paper
    # Without any relevant patch in them, the windows are the 100 patches themselves.
    assert run("curve", *images, *options, "--window-coverage", "0") == 0
    assert " 100 " in capsys.readouterr().out
    assert " 100 " not in paper
    assert run("curve", *images, *options, "--window-coverage", "2") == 2
    assert "`--window-coverage` must lie in [0, 1], got 2.0." in capsys.readouterr().err


def test_unsupported_model_fails_before_its_weights_are_loaded(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("curve", *images, "--model", "test_resnet", "--out", tmp_path / "out.png") == 2
    assert "error: ResNet" in capsys.readouterr().err


def test_curve_without_readable_images_reports_them(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_text("no image")
    options = ["--model", "test_vit", "--checkpoint", checkpoint, "--out", tmp_path / "curve.png"]
    assert run("curve", tmp_path / "broken.png", *options) == 1
    assert "failed: " in capsys.readouterr().err


def test_curve_without_sinks_counts_fewer_pairs(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(importlib.import_module("vit_interactions.functional.attention_sinks"), "FAIR_SHARES", 0.0)
    monkeypatch.setattr(
        importlib.import_module("vit_interactions.functional.attention_sinks"), "DEVIATIONS", -99.0
    )
    options = ["--model", "test_vit", "--checkpoint", checkpoint, "--out", tmp_path / "curve.png"]
    assert run("curve", *images, *options, "--alpha", "1.0", "--exclude-sinks") == 0
    table = capsys.readouterr().out
    assert "10,000" not in table  # every patch is a sink, so that each field is the patch alone
    assert " 100 " in table
