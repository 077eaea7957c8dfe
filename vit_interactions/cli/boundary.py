"""Run a command so that every error becomes one line and an exit code."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.text import Text

from vit_interactions.utilities.console import errors, make_warnings_printable

# Errors that users can fix: a wrong argument, file, model (UnsupportedModelError) or installation. All others are bugs.
USER_ERRORS = (ValueError, OSError, ImportError)
# Base class of Typer's usage errors, which Typer does not export.
TYPED_WRONG: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]
TRACEBACK = "VIT_INTERACTIONS_TRACEBACK"
LONGEST = 1000  # characters per message
USER_ERROR, BUG = 2, 70  # as in click, and EX_SOFTWARE of sysexits


class Interrupted(BaseException):
    """Raised for a signal that ends the command; its number is the first argument."""


def run_command(app: Callable[..., int | None], resumable: Callable[[str], bool]) -> int:
    """Run the command in `sys.argv`; if it fails, print one line that states why.

    Args:
        app: Typer application.
        resumable: returns whether the command of this name has `--resume`.

    Returns:
        Exit code: 2 for errors that the user can fix, 70 for bugs, 128 + the signal number for signals.
    """
    make_warnings_printable()
    try:
        with _signals():
            return app(standalone_mode=False) or 0
    except (Interrupted, KeyboardInterrupt) as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        typed = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        more = "; run the same command with --resume to continue" if resumable(typed) else ""
        return _print_error(f"interrupted{more}", 128 + number)
    except TYPED_WRONG as error:
        if len(sys.argv) == 1:  # typer's help
            error.show()  # type: ignore[attr-defined]
            return USER_ERROR
        return _print_error(f"error: {error.format_message()}", USER_ERROR)  # type: ignore[attr-defined]
    except USER_ERRORS as error:
        return _print_error(f"error: {error}", USER_ERROR, error)
    except MemoryError as error:
        return _print_error(f"error: out of memory: {error or 'allocation failed'}", BUG, error)
    except Exception as error:
        hint = "" if os.environ.get(TRACEBACK) else f" Set {TRACEBACK}=1 to see where."
        return _print_error(
            f"error: unexpected {type(error).__name__}: {str(error)[: LONGEST // 2]}.{hint}", BUG, error
        )


def _print_error(line: str, code: int, error: Exception | None = None) -> int:
    if error is not None and os.environ.get(TRACEBACK):
        errors.print(Text("".join(traceback.format_exception(error))), soft_wrap=True)
    errors.print(line if len(line) <= LONGEST else f"{line[:LONGEST]} ...", soft_wrap=True, style="red")
    return code


@contextmanager
def _signals() -> Iterator[None]:
    """Raise `Interrupted` for SIGINT and SIGTERM inside the block; `train` handles them itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a forked worker, which ends with this process
            return
        # A second signal must not interrupt the cleanup after the first.
        signal.signal(number, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
