"""Helpers for tests of training runs."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file

from vit_interactions.training.log import read_rows
from vit_interactions.training.reporter import Reporter
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.train import train
from vit_interactions.training.trainer import Trainer


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class NoteKeeper(Reporter):
    """A reporter that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


TIMES = ("images_per_second", "eval_throughput")


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "last" / "model.safetensors")


def same_run(out: Path, other: Path) -> bool:
    """Return True if two runs ended in the same bits and logged the same numbers, except for times."""
    ours, theirs = weights(out), weights(other)
    for name in ("log.csv", "summary.csv"):
        rows = [
            [{k: v for k, v in r.items() if k not in TIMES} for r in read_rows(f / name)] for f in (out, other)
        ]
        if rows[0] != rows[1]:
            return False
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    train_step = Trainer.train_step

    def stopping(self: Trainer, batches: Iterator[Any]) -> None:
        train_step(self, batches)
        if self.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "train_step", stopping)


def read(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))


def refused(settings: TrainingSettings, out: Path) -> str:
    """Resume, which must fail with one line and change no file, and return that line."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"\w") as found:
        train(settings, out, resume=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "\n" not in str(found.value)
    return str(found.value)
