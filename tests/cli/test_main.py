"""Test that a busy folder, a full disk, a broken model or a class out of range ends every command with one line."""

import errno
import os
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from tests.helpers.command_line import run
from tests.helpers.locking import held

GOOD = '{"architecture": "test_vit", "num_classes": 2, "pretrained_cfg": {}'


@pytest.mark.parametrize("command", ["explain", "explore", "curve", "compare", "windows", "train"])
def test_second_run_with_the_same_output_fails(
    command: str, checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for part in ("train", "val"):
        for number, image in enumerate(images):
            target = data / part / f"class{number}" / image.name
            target.parent.mkdir(parents=True)
            target.write_bytes(image.read_bytes())
    out = tmp_path / ("curve.png" if command == "curve" else "out")
    given = {"windows": ["--data", data], "train": [data]}.get(command, [images[0]])
    options = [] if command == "train" else ["--checkpoint", checkpoint]
    with held(out, "locked_file" if command == "curve" else "locked"):
        before = sorted(tmp_path.rglob("*"))
        assert run(command, *given, "--model", "test_vit", *options, "--out", out) == 2
        assert sorted(tmp_path.rglob("*")) == before
    shown = " ".join(capsys.readouterr().err.split())
    assert f"error: {out} is in use by another run. Wait until that run has ended" in shown


@pytest.mark.parametrize("command", ["explain", "explore", "curve", "compare"])
def test_full_disk_prints_one_line(
    command: str,
    checkpoint: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / ("curve.png" if command == "curve" else "out")
    method = ["--method", "raw_attention"] if command in ("explain", "compare") else []
    options = ["--model", "test_vit", "--checkpoint", checkpoint, "--out", out, *method]
    assert run(command, *images, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "No space left" in line]
    assert len(lines) == 1
    assert re.search(r"^error: .* could not be written: No space left on device\. Free some space", lines[0])
    assert not out.exists()


def write_local(folder: Path, config: str, weights: bytes | None = None) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return f"local-dir:{folder}"


@pytest.mark.parametrize("command", ["explain", "evaluate"])
@pytest.mark.parametrize(
    ("config", "weights", "reason"),
    [
        ("{", None, "JSONDecodeError"),
        ("[1]", None, "TypeError"),
        ("{}", None, "KeyError: 'architecture'"),
        ('{"architecture": "nope"}', None, "Unknown model (nope)"),
        (GOOD + ', "model_args": {"foo": 3}}', None, "unexpected keyword argument 'foo'"),
        (GOOD + ', "model_args": [3]}', None, "AttributeError"),
        (GOOD + "}", None, "No suitable checkpoints found"),
        (GOOD + "}", b"\xff" * 100, "SafetensorError"),
    ],
)
def test_a_broken_local_folder_is_named(
    command: str,
    config: str,
    weights: bytes | None,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = write_local(tmp_path / "model", config, weights)
    image = tmp_path / "val" / "cat" / "a.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(image)
    arguments = [image, "--out", tmp_path / "o"] if command == "explain" else [tmp_path, "--workers", "0"]
    assert run(command, *arguments, "--model", name) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: `model` must be local-dir: and a folder with the config.json and weights")
    assert reason in err


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_class_out_of_range_fails_before_the_run(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), tmp_path / "weights.pt")
    model = ["--model", "test_vit", "--checkpoint", tmp_path / "weights.pt"]
    assert run(command, tmp_path / "a.png", *model, "--target", "5", "--out", tmp_path / "o") == 2
    assert "target` must lie in [0, 4] for the 5 classes of test_vit, got 5." in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
