"""However a command ends, it prints one line with the reason and returns an exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.command_line import run
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.cli.boundary import TRACEBACK, run_command


def ending(raised: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def app(standalone_mode: bool) -> int:
        raise raised

    code = run_command(app, lambda name: name == "explain")
    return code, capsys.readouterr().err


@pytest.mark.parametrize("kind", [ValueError, OSError, ImportError, UnsupportedModelError])
def test_user_errors_are_one_line_with_exit_code_2(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(kind("`out` must be\n  a folder"), capsys) == (2, "error: `out` must be a folder\n")


def test_bugs_are_one_line_with_exit_code_70_and_optional_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    line = "error: unexpected KeyError: 'x'. Set VIT_INTERACTIONS_TRACEBACK=1 to see where.\n"
    assert ending(KeyError("x"), capsys) == (70, line)
    monkeypatch.setenv(TRACEBACK, "1")
    code, err = ending(KeyError("x"), capsys)
    assert code == 70
    assert "Traceback (most recent call last)" in err
    assert "raise raised" in err
    assert err.endswith("error: unexpected KeyError: 'x'.\n")


def test_a_long_message_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(ending(RuntimeError("x" * 10_000), capsys)[1]) < 1200


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("command", "more"), [("explain", "; run the same command with --resume to continue"), ("curve", "")]
)
def test_signals_are_one_line_with_their_exit_code(
    number: signal.Signals,
    code: int,
    command: str,
    more: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["vit-interactions", command])
    cleaned = []

    def app(standalone_mode: bool) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleaned.append(True)
        return 0

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert run_command(app, lambda name: name == "explain") == code
    assert capsys.readouterr().err == f"interrupted{more}\n"
    assert cleaned
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for number in range(300):
        path = tmp_path / "data" / "train" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    save_file(timm.create_model("test_vit", num_classes=2).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "data"


def test_workers_of_windows_command_print_no_traceback(data: Path, tmp_path: Path) -> None:
    # Slow the workers down so that they are busy when the signal arrives; send it to all, like a terminal.
    code = (
        "import sys, time, vit_interactions.training.data.build_store as b\n"
        "pack = b.pack\n"
        "def slow(*a):\n    print('at work', flush=True)\n    time.sleep(0.3)\n    return pack(*a)\n"
        "b.pack = slow\n"
        "from vit_interactions.cli.main import main\nmain()"
    )
    arguments = ["--data", data, "--model", "test_vit", "--checkpoint", tmp_path / "weights.safetensors"]
    arguments += ["--out", tmp_path / "store", "--workers", "2", "--batch-size", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "windows", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().endswith("interrupted; run the same command with --resume to continue")


def write_local(folder: Path, config: str, weights: bytes | None = None) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return f"local-dir:{folder}"


GOOD = '{"architecture": "test_vit", "num_classes": 2, "pretrained_cfg": {}'


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


def test_convolutional_teacher_raises_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "train" / kind / "a.png")
    torch.save(timm.create_model("resnet18", num_classes=2).state_dict(), tmp_path / "teacher.pt")
    options = ["--val-split", "", "--batch-size", "2", "--workers", "0", "--window-targets", "online"]
    options += ["--teacher", "resnet18", "--teacher-checkpoint", str(tmp_path / "teacher.pt")]
    assert run("train", tmp_path, "--out", tmp_path / "o", "--model", "test_winft", *options) == 2
    assert "error: `teacher` must be a plain timm ViT, got resnet18: " in capsys.readouterr().err


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
