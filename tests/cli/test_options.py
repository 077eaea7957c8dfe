"""Test that wrong options end every command with one line."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.command_line import explain, run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "atention_rolout"], "Did you mean attention_rollout"),
        (["--method", "salience"], "Did you mean saliency"),
        (
            ["--method", "scorecam"],
            "got 'scorecam'. ScoreCAM is not offered: it runs the model once per channel",
        ),
        (["--method", "gmar:norm=l3"], "`norm` of gmar must be l1 or l2, got 'l3'"),
        (["--method", "gmar:nrm=l1"], r"own options \(norm=l2\|l1, .*\), got 'nrm'. Did you mean norm"),
        (["--method", "gmar:norm"], "`method` must be NAME or NAME:OPTION=VALUE"),
        (["--method", "attention_rollout:discard=2"], r"`discard` must lie in \[0, 1\]"),
        (["--patch", "10,0"], r"`patch` must lie in the grid: row in \[0, 9\]"),
        (["--patch", "1;2"], r"`--patch` must be ROW,COL"),
        (["--device", "cuda:99"], "`--device` must be auto or a device of this machine"),
        (["--device", "gpu"], "`--device` must be auto or a device of this machine"),
    ],
)
def test_wrong_options_print_one_line(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert explain(*images, *arguments, checkpoint=checkpoint, out=tmp_path / "out") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert re.search(message, shown), shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--alpha", "--beta"])
@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan"])
def test_fractions_out_of_range(
    option: str, value: str, checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    assert explain(*images, option, value, checkpoint=checkpoint, out=tmp_path / "out") != 0
    assert not (tmp_path / "out" / "wide").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "{}", "--out", "{}/o", "--model", "test_vit", "--img-size", "1000000"],
            "`img_size` must be in [1, 8192]",
        ),
        (
            ["windows", "--data", "{}", "--out", "{}/o", "--model", "test_vit", "--img-size", "1000000"],
            "--img-size",
        ),
        (
            ["train", "{}", "--out", "{}/o", "--model", "test_vit", "--opt", "sdg"],
            "`opt` must be a timm optimizer, got 'sdg'.",
        ),
        (["train", "{}", "--out", "{}/o", "--model", "test_vit", "--lr", "1e300"], "`lr` must be finite"),
        (["train", "{}", "--out", "{}/o", "--model", "xx:y"], "`model` must be a timm model, local-dir:"),
        (["explain", "{}/[/red].png", "--out", "{}/o"], "[/red].png"),
        (["explain", "--bogus", "--out", "{}/o"], "No such option: --bogus"),
        (
            ["explain", "--target", "-1", "--out", "{}/o"],
            "`--target` must be a class index >= 0 or \"pred\", got '-1'.",
        ),
        *(
            ([*command, "--out", ""], "'--out': must be a path, got ''.")
            for command in (["explain"], ["explore"], ["curve"], ["compare"], ["train", "{}"])
        ),
        (["evaluate", "{}", "--model", "test_vit", "--out", ""], "'--out': must be a path, got ''."),
        (["windows", "--data", "{}", "--model", "test_vit", "--out", ""], "'--out': must be a path, got ''."),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:1]),
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            (tmp_path / part / kind).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / part / kind / "a.png")
    assert run(*(argument.replace("{}", str(tmp_path)) for argument in arguments)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
