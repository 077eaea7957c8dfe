"""Training runs of a few steps: killed, stopped and resumed exactly, with their files and the command line."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.helpers.command_line import run
from tests.helpers.tiny_images import (
    CLASSES,
    SIZE,
    TRAIN,
    VAL,
    everything,
    make_images,
    save_teacher_weights,
    tiny_settings,
)
from tests.helpers.trained import NoteKeeper, same_run, stop_at, weights
from vit_interactions.training.checkpoint import load_checkpoint
from vit_interactions.training.data.build_store import build_window_store
from vit_interactions.training.data.datasets import open_split
from vit_interactions.training.evaluate import run_evaluation
from vit_interactions.training.log import read_rows
from vit_interactions.training.settings import EvaluationSettings
from vit_interactions.training.task import WindowSupervisionTask
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.training.train import train
from vit_interactions.training.trainer import Trainer

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher_weights(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(scope="module")
def whole(image_folder: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run that uses every feature."""
    out: Path = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_settings(image_folder, **everything(teacher)), out)
    return out


def as_options(settings: dict[str, Any]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def test_reference_run_uses_every_feature(whole: Path) -> None:
    rows = read_rows(whole / "log.csv")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 9]  # 27 images make 3 steps of 8
    assert {"loss", "classification_loss", "window_loss", "operations", "lr"} <= rows[0].keys()
    assert rows[0]["lr"] < rows[1]["lr"] > rows[-1]["lr"]
    state = load_checkpoint(whole / "checkpoint.pt")
    assert not all(torch.equal(state["state_dict"][k], v) for k, v in state["state_dict_ema"].items())
    assert not [key for key in state["state_dict"] if "teacher" in key]
    # The exported model is the average.
    assert all(torch.equal(state["state_dict_ema"][k], v) for k, v in weights(whole).items())


def test_killed_run_resumes_to_the_same_bits(
    whole: Path, image_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    script = (
        "import os, signal\n"
        "from vit_interactions.training.trainer import Trainer\n"
        "train_step = Trainer.train_step\n"
        "def killing(self, batches):\n"
        "    if self.step == 5:\n"
        "        step = self._optimizer.step\n"
        "        self._optimizer.step = lambda: (step(), os.kill(os.getpid(), signal.SIGKILL))\n"
        "    train_step(self, batches)\n"
        "Trainer.train_step = killing\n"
        "from vit_interactions.cli.main import main\n"
        "main()\n"
    )
    settings = tiny_settings(image_folder, **everything(teacher))
    options = {k: v for k, v in settings.as_json().items() if k != "data" and v not in (None, False, "")}
    command = [
        sys.executable,
        "-c",
        script,
        "train",
        str(image_folder),
        "--out",
        str(tmp_path),
        *as_options(options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "MPLBACKEND": "Agg"}
    killed = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 4
    with (tmp_path / "log.csv").open("a") as file:
        file.write("6,1,0.123")  # a row that the kill cut short
    # With another number of worker processes.
    assert train(tiny_settings(image_folder, **everything(teacher), workers=1), tmp_path, resume=True).step == 9
    assert same_run(whole, tmp_path)


@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_steps_since_the_last_checkpoint_are_repeated(
    step: int, whole: Path, image_folder: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Trainer.train_step

    def failing(self: Trainer, batches: Iterator[Any]) -> None:
        train_step(self, batches)
        if self.step == step:
            raise MemoryError

    settings = tiny_settings(image_folder, **everything(teacher))
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", failing)
        with pytest.raises(MemoryError):
            train(settings, tmp_path)
    train(settings, tmp_path, resume=True)
    assert same_run(whole, tmp_path)


@pytest.mark.parametrize("step", [3, 5])  # at the end of an epoch, and in the middle of one
def test_stop_signal_ends_after_the_step_and_run_resumes_exactly(
    step: int, whole: Path, image_folder: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(image_folder, **everything(teacher))
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        stop_at(patched, step)
        stopped = train(settings, tmp_path)
    assert (stopped.step, stopped.total, stopped.signal) == (step, 9, signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == step
    assert train(settings, tmp_path, resume=True).signal == 0
    assert same_run(whole, tmp_path)


def test_stop_signal_during_evaluation(
    whole: Path, image_folder: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vit_interactions.training import evaluate as evaluation

    classify = evaluation.classify_and_count

    def stopping(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return classify(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "classify_and_count", stopping)
        assert train(tiny_settings(image_folder, **everything(teacher)), tmp_path).step == 3
    assert not (tmp_path / "summary.csv").exists()
    train(tiny_settings(image_folder, **everything(teacher)), tmp_path, resume=True)
    assert same_run(whole, tmp_path)


def test_resume_with_other_images_raises(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 1)
        train(tiny_settings(image_folder), tmp_path / "run")
    other = make_images(tmp_path / "other")
    for number in range(CLASSES):
        for image in range(3):
            (other / "train" / f"class{number}" / f"{image}.png").unlink()
    with pytest.raises(
        ValueError, match="`data` must be the images that the run started with, 3 steps per epoch, got 2"
    ):
        train(tiny_settings(other), tmp_path / "run", resume=True)


def test_resume_with_another_teacher_raises(
    image_folder: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 1)
        train(tiny_settings(image_folder, **everything(teacher)), tmp_path / "run")
    other = load_file(teacher)
    other["norm.bias"] += 1.0
    save_file(other, tmp_path / "other.safetensors")
    settings = tiny_settings(image_folder, **everything(tmp_path / "other.safetensors"))
    with pytest.raises(
        ValueError, match="`resume` must come with the teacher or window store that the run started with"
    ):
        train(settings, tmp_path / "run", resume=True)


def test_evaluation_notes_windows_that_differ_from_training(
    image_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    awd = {"model": "test_awd_vit", "teacher": "test_vit", "teacher_checkpoint": teacher}
    train(tiny_settings(image_folder, **awd, alpha=0.05, beta=0.0, epochs=1), tmp_path / "run")
    common = {
        **awd,
        "data": image_folder,
        "model": f"local-dir:{tmp_path}/run/last",
        "workers": 0,
        "img_size": SIZE,
    }
    reporter = NoteKeeper()
    run_evaluation(EvaluationSettings(**common, alpha=0.05, beta=0.0), reporter=reporter)
    assert reporter.notes == []
    run_evaluation(EvaluationSettings(**common, alpha=0.05), reporter=reporter)
    assert reporter.notes == [f"note: local-dir:{tmp_path}/run/last was trained with --beta 0, not 0.2"]
    narrow = NoteKeeper()
    run_evaluation(EvaluationSettings(**common, alpha=0.05, beta=0.0, window_coverage=0.9), reporter=narrow)
    assert narrow.notes == [f"note: local-dir:{tmp_path}/run/last was trained with --window-coverage 1, not 0.9"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"auto_augment": "foo"}, "`auto_augment` must be a timm policy"),
        ({"img_size": 100}, "`img_size` must be a multiple of the model's patches of 16 x 16 pixels, got 100"),
        ({"smoothing": 1.0}, r"`smoothing` must be in \[0, 1\), got 1.0"),
    ],
)
def test_invalid_options_raise_value_errors_instead_of_timms_assertions(
    wrong: dict[str, Any], expected: str, image_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected):
        train(tiny_settings(image_folder, **{"model": "test_vit", **wrong}), tmp_path)


def test_each_part_of_each_step_has_its_own_seed(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr("vit_interactions.training.trainer.seed_everything", seeds.append)
    train(tiny_settings(image_folder, accumulate=2), tmp_path)
    assert len(seeds) == len(set(seeds)) == 2 * 6


@pytest.mark.parametrize("clip_grad", [None, 0.5])
def test_accumulated_step_equals_the_whole_step(
    clip_grad: float | None, image_folder: Path, tmp_path: Path
) -> None:
    for parts in (1, 4):
        train(tiny_settings(image_folder, accumulate=parts, clip_grad=clip_grad), tmp_path / str(parts))
    whole, parted = weights(tmp_path / "1"), weights(tmp_path / "4")
    for name, value in whole.items():
        torch.testing.assert_close(parted[name], value, rtol=1e-3, atol=1e-4)


def test_another_seed_gives_another_run(whole: Path, image_folder: Path, teacher: Path, tmp_path: Path) -> None:
    train(tiny_settings(image_folder, **everything(teacher), seed=1), tmp_path)
    assert not same_run(whole, tmp_path)


def test_command_trains_stops_resumes_and_evaluates(
    image_folder: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    settings = {"model": "test_winft", "img_size": SIZE, "batch_size": 8, "steps": 5, "workers": 0, "lr": 0.05}
    supervision = {
        "window_targets": "online",
        "teacher": "test_vit",
        "teacher_checkpoint": teacher,
        "log_every": 2,
    }
    command = ["train", image_folder, "--out", out, *as_options(settings | supervision)]
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        assert run(*command) == 128 + signal.SIGTERM
    shown = capsys.readouterr().err
    assert "stopped by SIGTERM after step 4 of 5; resume with --resume" in shown
    assert run(*command) == 2
    assert "with a run in it. Resume it with --resume" in capsys.readouterr().err
    assert run(*command, "--lr", 0.1, "--resume") == 2
    assert "`lr` 0.1, not 0.05" in capsys.readouterr().err
    assert run(*command, "--resume") == 0
    shown = capsys.readouterr().err
    assert "resumed at step 4 of 5" in shown
    assert "epoch 1: top-1 " in shown
    with Image.open(out / "curves.png") as image:
        assert min(image.size) > 300
    files = {"best", "last", "checkpoint.pt", "curves.png", "log.csv", "settings.json", "summary.csv"}
    assert {path.name for path in out.iterdir()} == files
    last = read_rows(out / "summary.csv")[-1]

    for name in ("result.json", "result.csv"):
        model = f"local-dir:{out / 'last'}"
        assert run("evaluate", image_folder, "--model", model, "--workers", 0, "--out", tmp_path / name) == 0
        assert "15" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    with (tmp_path / "result.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert result["top5"] is last["eval_top5"] is None  # three classes have no five
    assert row["top5"] == ""
    for name in ("images", "loss", "top1", "operations", "pairs", "unreadable"):
        assert result[name] == pytest.approx(last[f"eval_{name}"], rel=1e-6)
        assert float(row[name]) == pytest.approx(result[name], rel=1e-6)
    assert result["pairs"] == 256
    assert result["settings"]["model"] == model


@pytest.mark.parametrize("name", ["test_vit", "test_awd_vit", "test_winft"])
def test_every_kind_of_model_learns(name: str, image_folder: Path, teacher: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": name,
        "epochs": 4,
        "lr": 0.1,
        "color_jitter": 0.0,
        "scale": 0.9,
        "ema": 0.1,
    }
    if name != "test_vit":
        changes |= {"teacher": "test_vit", "teacher_checkpoint": teacher, "alpha": 0.05, "beta": 0.25}
    if name == "test_winft":
        changes |= {"window_targets": "online"}
    evaluation = train(tiny_settings(image_folder, **changes), tmp_path).evaluation
    assert evaluation is not None
    assert evaluation.images == CLASSES * VAL
    assert evaluation.top1 > 80
    assert evaluation.pairs == 256
    assert (evaluation.operations == 256) == (name == "test_vit")
    created = timm.create_model(name, num_classes=CLASSES, img_size=SIZE)
    assert weights(tmp_path).keys() == created.state_dict().keys()
    assert evaluation.top1 == max(row["eval_top1"] or 0 for row in read_rows(tmp_path / "summary.csv"))


def test_stored_windows_are_the_targets(image_folder: Path, teacher: Path, tmp_path: Path) -> None:
    vit = timm.create_model("test_vit", num_classes=5, img_size=SIZE)
    vit.load_state_dict(load_file(teacher))
    list(
        build_window_store(
            open_split(image_folder, "train"), WindowTeacher(vit, 0.05, 0.2), tmp_path / "store", workers=0
        )
    )
    seen: list[torch.Tensor] = []

    class Watching(WindowSupervisionTask):
        def forward(self, input: Any, target: Any, windows: Any = None) -> Any:
            seen.append(windows)
            return super().forward(input, target, windows)

    plain = {"window_targets": "cached", "window_store": tmp_path / "store", "alpha": 0.05}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vit_interactions.training.trainer.WindowSupervisionTask", Watching)
        train(tiny_settings(image_folder, **plain, epochs=1), tmp_path / "run")
    assert [mask.shape for mask in seen] == [torch.Size([8, 16, 16])] * 3
    assert all(mask.dtype == torch.bool and mask.diagonal(dim1=1, dim2=2).all() for mask in seen)
    assert len({mask.sum().item() for mask in seen}) > 1
    with pytest.raises(ValueError, match=r"`alpha` and `beta` must be those of the window store, 0.05 and 0.2"):
        train(tiny_settings(image_folder, **{**plain, "alpha": 0.1}), tmp_path / "other")
    with pytest.raises(ValueError, match=r"`window_coverage` must be that of the window store, 1, got 0.9"):
        train(tiny_settings(image_folder, **{**plain, "window_coverage": 0.9}), tmp_path / "other")
    with pytest.raises(ValueError, match=r"`exclude_sinks` must be that of the window store, False, got True"):
        train(tiny_settings(image_folder, **{**plain, "exclude_sinks": True}), tmp_path / "other")
    with pytest.raises(ValueError, match=r"grid of 2 x 2 patches, got 4 x 4 in"):
        train(tiny_settings(image_folder, **{**plain, "img_size": 32}), tmp_path / "other")


def test_initial_weights(
    whole: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = whole / "last" / "model.safetensors"
    common = ["train", image_folder, "--model", "test_winft", "--batch-size", 8, "--steps", 1, "--workers", 0]
    # The same classes: the head is kept, even at another input size.
    frozen = [*common, "--initial-checkpoint", start, "--lr", 1e-9, "--img-size", 32]
    assert run(*frozen, "--out", tmp_path / "same") == 0
    assert "head" not in capsys.readouterr().err
    torch.testing.assert_close(weights(tmp_path / "same")["head.weight"], weights(whole)["head.weight"])
    assert weights(tmp_path / "same")["pos_embed"].shape == (1, 5, 64)
    # Other classes: everything but the head is kept.
    other = timm.create_model("test_vit", num_classes=7, img_size=SIZE)
    save_file(other.state_dict(), tmp_path / "seven.safetensors")
    frozen = [*common, "--initial-checkpoint", tmp_path / "seven.safetensors", "--lr", 1e-9, "--img-size", SIZE]
    assert run(*frozen, "--out", tmp_path / "seven") == 0
    assert "have 7 classes, the data 3: the head is re-initialized" in capsys.readouterr().err
    found = weights(tmp_path / "seven")
    assert found["head.weight"].shape == (3, 64)
    for name, value in other.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(found[name], value)
    # Weights of another model.
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert run(*common, "--out", tmp_path / "no", "--initial-checkpoint", tmp_path / "other.safetensors") == 2
    assert "does not fit test_winft: it has no `cls_token`" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "no").exists()


def test_numbers_that_are_not_finite_end_the_run_before_a_checkpoint(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"numbers of a step must be finite, got loss nan.* Try a lower `lr`"):
        train(tiny_settings(image_folder, lr=1e30, checkpoint_every=1, log_every=1), tmp_path)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["step"] >= 1
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_a_stream_resumes_in_the_middle(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.data.dataset import IterableImageDataset

    class Stream:
        """A reader like those of WebDataset and TFDS, with another order in each epoch."""

        def __init__(self) -> None:
            self.class_to_idx = {f"class{number}": number for number in range(CLASSES)}
            self.epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return CLASSES * TRAIN

        def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(self.epoch)).tolist()
            for index in order:
                path = image_folder / "train" / f"class{index // TRAIN}" / f"{index % TRAIN}.png"
                with Image.open(path) as image:
                    yield image.convert("RGB"), index // TRAIN

    from vit_interactions.training.data import datasets

    def opened(data: Path, split: str, **options: Any) -> Any:
        return IterableImageDataset("", reader=Stream()) if split == "train" else open_split(data, split)

    monkeypatch.setattr(datasets, "open_split", opened)
    settings = tiny_settings(image_folder, auto_augment="rand-m9-mstd0.5")
    train(settings, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_at(patched, 5)
        train(settings, tmp_path / "stopped")
    assert train(settings, tmp_path / "stopped", resume=True).step == 6
    assert same_run(tmp_path / "whole", tmp_path / "stopped")
