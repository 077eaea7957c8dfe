"""`vit-interactions study-fields`: its files and table, images that fail, and how it resumes."""

import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.helpers.command_line import failure, run
from tests.helpers.locking import held
from tests.helpers.noise import write_noise
from vit_interactions.cli.main import is_resumable


@pytest.fixture
def study(tmp_path: Path, checkpoint: Path) -> list[object]:
    write_noise(tmp_path / "images", dict.fromkeys("abcd", (160, 160)))
    (tmp_path / "images" / "broken.png").write_text("no image")
    boxes = ["a.png,10,10,80,80", "b.png,60,10,150,80", "c.png,60,60,150,150", "c.png,0,0,20,20"]
    boxes += ["d.png,-5,-5,200,200", "broken.png,0,0,9,9", "gone.png,0,0,9,9"]
    table = tmp_path / "boxes.csv"
    table.write_text("file,left,top,right,bottom\n" + "\n".join(boxes))
    model = ["--model", "test_vit", "--checkpoint", checkpoint]
    return ["study-fields", "--images", tmp_path / "images", "--boxes", table, *model, "--out", tmp_path / "out"]


def test_study_writes_tables_and_a_figure_and_names_what_it_skips(
    study: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "unboxed.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    assert run(*study, "--alpha", "0.1", "--alpha", "0.3") == 1
    shown = capsys.readouterr()
    assert "alpha 0.1, 3 images" in shown.out
    assert "alpha 0.3, 3 images" in shown.out
    for line in (
        "failed: ",
        "note: 1 of 7 rows of `boxes` match no image and are not used, e.g. 'gone.png'",
        "note: 1 image without boxes skipped",
        "note: 1 image skipped, whose boxes contain all patches or none",
    ):
        assert line in shown.err
    assert "broken.png" in shown.err
    out = tmp_path / "out"
    names = ["claims.png", "per_image.csv", "results.csv", "results.json", "study.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    results, rows = pd.read_csv(out / "results.csv"), pd.read_csv(out / "per_image.csv")
    assert (len(results), len(rows)) == (2 * 4 * 6, 3 * 2 * 6)
    means = rows.groupby(["alpha", "control"])["size_auc"].mean()
    chosen = results[results["claim"] == "size_auc"].set_index(["alpha", "control"])["mean"]
    pd.testing.assert_series_equal(chosen.sort_index(), means.sort_index(), check_names=False)
    with Image.open(out / "claims.png") as image:
        assert min(image.size) > 300

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "which has a study. Resume it" in failure(capsys, *study)
    assert run(*study, "--alpha", "0.1", "--alpha", "0.3", "--resume") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "other settings" in failure(capsys, *study, "--resume")


def test_fewer_images_and_another_size(study: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*study, "--num-images", "2", "--img-size", "64") == 0
    assert "alpha 0.1, 2 images" in capsys.readouterr().out


def test_window_coverage_and_sinks_are_settings_of_the_study(
    study: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*study, "--num-images", "2", "--window-coverage", "0.5", "--exclude-sinks") == 0
    settings = json.loads((tmp_path / "out" / "study.json").read_text())["settings"]
    assert (settings["coverage"], settings["exclude_sinks"]) == (0.5, True)
    line = failure(capsys, *study, "--num-images", "2", "--exclude-sinks", "--resume")
    assert "other settings: coverage was 0.5, now is 1" in line
    line = failure(capsys, *study, "--num-images", "2", "--window-coverage", "0.5", "--resume")
    assert "other settings: exclude_sinks was true, now is false" in line
    assert "`--window-coverage` must lie in [0, 1], got 2.0" in failure(capsys, *study, "--window-coverage", "2")


def test_wrong_arguments_are_one_line(
    study: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "`--alpha` must lie in [0, 1], got 2.0" in failure(capsys, *study, "--alpha", "2")
    with held(tmp_path / "out", "locked"):
        assert "is in use by another run" in failure(capsys, *study)
    (tmp_path / "boxes.csv").write_text("file,left,top,right,bottom\na.png,10,10,80,80\n")
    assert "must contain at least 2" in failure(capsys, *study)
    assert not list((tmp_path / "out").glob("*"))


def test_a_full_disk_is_one_line(
    study: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "could not be written: No space left on device. Free some space" in failure(capsys, *study)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_command_advises_to_resume() -> None:
    assert is_resumable("study-fields")
