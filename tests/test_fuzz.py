"""Hostile inputs of every command: nothing executed, nothing lost, no traceback, one line that says what is wrong.

A small part of `tests/benchmarks/fuzz.py`, which runs all of it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import fuzz_trials as trials
from tests.helpers.fuzzed import PATIENCE, Sandbox, Trial, endings, injected, run, try_out
from tests.helpers.tiny_images import one_thread

# As for users: what Pillow warns of is no error.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(made.folder("here"))
    with one_thread():
        yield made


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def check(tried: Iterator[Trial], least: int) -> None:
    done = list(tried)
    assert sum(len(trial.inputs) for trial in done) >= least
    wrong = [(trial.inputs, trial.problems, trial.ended) for trial in done if trial.problems]
    assert not wrong


@pytest.mark.parametrize("command", [*trials.IMAGE_COMMANDS, *trials.DATA_COMMANDS, trials.STUDY])
def test_images(command: str, sandbox: Sandbox, rng: np.random.Generator) -> None:
    check(trials.image_trials(sandbox, command, rng, 5), 35)


@pytest.mark.parametrize("command", ["explain", "curve"])
def test_names(command: str, sandbox: Sandbox, rng: np.random.Generator) -> None:
    check(trials.name_trials(sandbox, command, rng, 5), 45)


def test_class_maps(sandbox: Sandbox, rng: np.random.Generator) -> None:
    check(trials.class_map_trials(sandbox, rng, 10), 25)


@pytest.mark.parametrize("command", ["explain", "evaluate"])
def test_checkpoints(command: str, sandbox: Sandbox, rng: np.random.Generator) -> None:
    check(trials.checkpoint_trials(sandbox, command, rng, 5), 40)


@pytest.mark.parametrize("command", ["explain", "curve", "windows", "evaluate", "models"])
def test_options(command: str, sandbox: Sandbox, rng: np.random.Generator) -> None:
    check(trials.option_trials(sandbox, command, rng, 40), 10)


@pytest.mark.parametrize(
    ("command", "count"), [("explain", 15), ("windows", 30), ("train", 6), ("compare", 4), (trials.STUDY, 4)]
)
def test_edits(command: str, count: int, sandbox: Sandbox, rng: np.random.Generator) -> None:
    check(trials.edit_trials(sandbox, command, rng, count), count)


def test_what_is_wrong_is_found(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break each promise on purpose, and see it reported."""

    def misbehave() -> None:
        print("Traceback \x1b[31m")
        sandbox.marker.touch()
        (sandbox.data / "new").touch()
        sandbox.good.unlink()

    monkeypatch.setattr("vit_interactions.cli.main.main", misbehave)
    problems = try_out(sandbox, Trial("explain", ["x"], [], (2,))).problems
    for wanted in (
        "silent: exit code 0",
        "traceback",
        "raw characters",
        "executed",
        "changed outside --out: 'good/",
    ):
        assert any(problem.startswith(wanted) for problem in problems), wanted
    assert injected("<p><img src=x onerror=alert(1)></p>")
    assert injected("<script>alert(1)</script>")
    assert not injected("&lt;img src=x onerror=alert(1)&gt;")


def test_a_run_that_waits_forever_is_found(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(sandbox.root / "pipe")
    monkeypatch.setattr("vit_interactions.cli.main.main", lambda: (sandbox.root / "pipe").read_bytes())
    ended = run("explain", seconds=0.2)
    assert PATIENCE > 1
    assert endings(Trial("explain", [], [], (0,)), ended) == ["hang"]
