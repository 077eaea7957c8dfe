"""Test that every way a command can fail prints one line with the reason and sets the exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def test_an_interrupt_while_torch_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)"
    )
    code = f"""
import sys
from vit_interactions_cli import main
sys.path.insert(0, {str(tmp_path)!r})
sys.argv = ["vit-interactions", "methods"]
main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")
