"""Logs: cut at the checkpoint, and passed on to TensorBoard and Weights & Biases."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from vit_interactions.training.log import CsvLog, RunLog, open_tensorboard, open_wandb, read_rows


def test_logs_continue_at_the_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, 0)
    for step in (2, 4, 6):
        log.add("step", {"step": step, "loss": 1 / step})
    log.add("epoch", {"epoch": 0, "step": 6, "eval_top1": None})
    before = (tmp_path / "log.csv").read_text()
    assert read_rows(tmp_path / "summary.csv") == [{"epoch": 0.0, "step": 6.0, "eval_top1": None}]
    with (tmp_path / "log.csv").open("a") as file:
        file.write("6,0.1")  # not finished
    RunLog(tmp_path, 6, 1)
    assert (tmp_path / "log.csv").read_text() == before
    RunLog(tmp_path, 4, 0).add("step", {"step": 6, "loss": 1 / 6})
    assert (tmp_path / "log.csv").read_text() == before
    assert read_rows(tmp_path / "summary.csv") == []
    assert read_rows(tmp_path / "gone.csv") == []
    CsvLog(tmp_path / "empty.csv").path.write_text("ste")
    CsvLog(tmp_path / "empty.csv").cut(3)
    assert not (tmp_path / "empty.csv").exists()


def test_missing_loggers_raise_with_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="`tensorboard` needs a package: pip install tensorboard"):
        open_tensorboard(tmp_path, 0)
    with pytest.raises(ImportError, match="`wandb` needs a package: pip install wandb"):
        open_wandb(tmp_path, "project", {})


def test_loggers_receive_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Board:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append(("board", Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def close(self) -> None:
            calls.append("closed")

    class WandbRun:
        id = "abc"

        def log(self, numbers: dict[str, float], step: int) -> None:
            calls.append((numbers, step))

        def finish(self) -> None:
            calls.append("finished")

    def init(**options: Any) -> WandbRun:
        calls.append((options["project"], options["id"], options["resume"], options["config"]))
        return WandbRun()

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Board))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    log = RunLog(
        tmp_path, 7, 0, [open_tensorboard(tmp_path / "tb", 7), open_wandb(tmp_path, "project", {"lr": 0.1})]
    )
    log.add("step", {"step": 8, "loss": 2.0})
    log.add("epoch", {"epoch": 0, "step": 8, "eval_top1": None})
    log.close()
    open_wandb(tmp_path, "project", {"lr": 0.1})
    assert calls == [
        ("board", "tb", 8),  # step 7 is kept
        ("project", None, None, {"lr": 0.1}),
        ("step/loss", 2.0, 8),
        ({"step/loss": 2.0}, 8),
        ("epoch/epoch", 0, 8),
        ({"epoch/epoch": 0, "epoch/eval_top1": None}, 8),
        "closed",
        "finished",
        ("project", "abc", "allow", {"lr": 0.1}),
    ]
