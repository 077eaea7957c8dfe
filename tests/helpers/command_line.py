"""Run the command line inside a test, stop a test that hangs, and edit what a run has written."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vit_interactions.cli.main import main
from vit_interactions.utilities import console


def run(*arguments: object) -> int:
    """Run the command line as its entry point does; return the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vit-interactions", *map(str, arguments)])
        # Consoles take the width of the environment in which they were made, which is that of the test runner.
        for made in (console.output, console.errors):
            patch.setattr(made, "_width", 200)
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command line that must fail with one error line, and return that line."""
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return " ".join(shown.split())


@contextmanager
def no_hang(seconds: int) -> Iterator[None]:
    """Fail a block that waits for a pipe or a device, instead of waiting with it."""

    def fail(*_: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def set_field(content: Any, path: str, value: Any) -> None:
    """Set the value at a path of keys such as "a/0/b"; `...` deletes it."""
    *outer, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    for key in outer:
        content = content[key]
    if value is ...:
        del content[last]
    else:
        content[last] = value


def explain(*arguments: object, checkpoint: Path, out: Path) -> int:
    """Run `vit-interactions explain` with a small model; return the exit code."""
    return run("explain", *arguments, "--model", "test_vit", "--checkpoint", checkpoint, "--out", out)
