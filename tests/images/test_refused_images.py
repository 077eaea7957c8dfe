"""Every command processes the valid images of a folder and reports why each other file is skipped."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.command_line import no_hang, run
from tests.helpers.refused_images import REFUSED, SKIPPED
from tests.helpers.sharp_vit import save_sharp_vit
from vit_interactions.compare.comparison import Comparison
from vit_interactions.training.data.window_store import WindowStore


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    with no_hang(120):
        yield


@pytest.fixture
def model(tmp_path: Path) -> tuple[object, ...]:
    return "--model", "test_vit", "--checkpoint", save_sharp_vit(tmp_path)


def assert_told(shown: str, *, begins: str = "failed: ") -> None:
    lines = [line for line in shown.splitlines() if line.startswith(begins)]
    assert len(lines) == len(REFUSED)
    for name, reason in REFUSED.items():
        assert sum(name in line and reason in line for line in lines) == 1, (name, lines)


def test_explain(photos: Path, model: tuple[object, ...], fake_gs: Path, tmp_path: Path, capsys) -> None:
    options = ("--method", "raw_attention", "--out", tmp_path / "out")
    assert run("explain", photos, *model, *options) == 1
    shown = capsys.readouterr().err
    assert_told(shown)
    assert f"note: {SKIPPED}" in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good", "manifest.json"]
    assert not fake_gs.exists()


def test_compare(photos: Path, model: tuple[object, ...], fake_gs: Path, tmp_path: Path, capsys) -> None:
    options = ("--method", "raw_attention", "--metric", "deletion", "--out", tmp_path / "out")
    assert run("compare", photos, *model, *options) == 1
    shown = capsys.readouterr().err
    assert_told(shown)
    assert f"note: {SKIPPED}" in shown
    assert Comparison.open(tmp_path / "out").table()["image"].unique().tolist() == ["good"]
    assert not fake_gs.exists()


def test_explore(photos: Path, model: tuple[object, ...], fake_gs: Path, tmp_path: Path, capsys) -> None:
    assert run("explore", photos, *model, "--out", tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert_told(shown)
    assert f"note: {SKIPPED}" in shown
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.html"]
    assert not fake_gs.exists()


def test_curve(photos: Path, model: tuple[object, ...], fake_gs: Path, tmp_path: Path, capsys) -> None:
    assert run("curve", photos, *model, "--alpha", "0.1", "--out", tmp_path / "curve.png") == 1
    shown = capsys.readouterr().err
    assert_told(shown)
    assert f"note: {SKIPPED}" in shown
    assert (tmp_path / "curve.png").is_file()
    assert not fake_gs.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_windows(
    photos: Path, model: tuple[object, ...], fake_gs: Path, tmp_path: Path, workers: int, capsys
) -> None:
    run("windows", "--data", photos.parents[1], *model, "--out", tmp_path / "out", "--workers", workers)
    assert_told(capsys.readouterr().err, begins="skipped: ")
    store = WindowStore(tmp_path / "out")
    assert [store.is_readable(index) for index in range(len(store))] == [True] + [False] * len(REFUSED)
    assert not fake_gs.exists()


def test_pipes_as_boxes_masks_and_checkpoints_raise(
    photos: Path, model: tuple[object, ...], tmp_path: Path, capsys
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "masks").mkdir()
    os.mkfifo(tmp_path / "masks" / "good.png")
    options = ("--method", "raw_attention", "--metric", "pointing_game")
    out = iter(tmp_path / f"out{number}" for number in range(3))
    good = photos / "good.png"
    assert run("compare", good, *model, *options, "--boxes", tmp_path / "pipe", "--out", next(out)) == 2
    assert "`boxes` must be a file, got a named pipe at" in capsys.readouterr().err
    run("compare", good, *model, *options, "--masks", tmp_path / "masks", "--out", next(out))
    assert "must be a file, got a named pipe at" in capsys.readouterr().err
    assert run("explain", good, *model[:2], "--checkpoint", tmp_path / "pipe", "--out", next(out)) == 2
    assert "`checkpoint` must be a file, got a named pipe at" in capsys.readouterr().err
