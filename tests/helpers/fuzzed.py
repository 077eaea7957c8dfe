"""Run commands on hostile inputs, and list all problems in their results."""

import hashlib
import io
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import FrameType
from unicodedata import category

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from tests.helpers.hostile_images import encoded, noise
from vit_interactions.cli import main as cli

PATIENCE = 60  # CPU seconds that a run may take
GHOSTSCRIPT = "#!/bin/sh\ntouch '{}'\n"


class Hang(BaseException):
    """A run took too long."""


@dataclass
class Sandbox:
    """A folder with good inputs, a false Ghostscript, and the marker that executed code leaves.

    Attributes:
        root: the folder; everything in it but `out` must stay as it is.
    """

    root: Path

    def __post_init__(self) -> None:
        """Write the good inputs."""
        rng = np.random.default_rng(0)
        for path in (
            self.good,
            *(self.data / s / c / f"{i}.png" for s in ("train", "val") for c in "ab" for i in "01"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(noise(rng), "png"))
        torch.manual_seed(0)
        self.state = timm.create_model("test_vit", num_classes=2).state_dict()
        save_file(self.state, self.root / "weights.safetensors")
        program = self.root / "bin" / "gs"
        program.parent.mkdir()
        program.write_text(GHOSTSCRIPT.format(self.marker))
        program.chmod(0o755)

    @property
    def good(self) -> Path:
        """A good image."""
        return self.root / "good" / "good.png"

    @property
    def data(self) -> Path:
        """Good images, two of each of two classes in two parts."""
        return self.root / "data"

    @property
    def marker(self) -> Path:
        """The file that executed code leaves."""
        return self.root / "marker"

    @property
    def model(self) -> list[object]:
        """Options of the model and its weights."""
        return ["--model", "test_vit", "--checkpoint", self.root / "weights.safetensors"]

    def folder(self, *parts: str) -> Path:
        """Make a new folder for inputs."""
        path = self.root.joinpath("inputs", *parts)
        path.mkdir(parents=True)
        return path


@dataclass
class Ended:
    """The outcome of a run.

    Attributes:
        code: exit code; None if it hung.
        text: standard output and standard error, as they came.
        seconds: that it took.
    """

    code: int | None
    text: str
    seconds: float


@dataclass
class Trial:
    """A run on hostile inputs.

    Attributes:
        command: its name.
        inputs: what is hostile, for the table.
        arguments: of the command.
        codes: exit codes that are right.
        named: words of which each must be in the text, such as names of files that cannot be used.
        out: where it may write; None: nowhere.
        problems: found so far.
    """

    command: str
    inputs: Sequence[str]
    arguments: Sequence[object]
    codes: tuple[int, ...]
    named: Sequence[str] = ()
    out: Path | None = None
    problems: list[str] = field(default_factory=list)
    ended: Ended | None = None


def run(*arguments: object, seconds: float = PATIENCE) -> Ended:
    """Run the command line in this process as its entry point does, with both streams captured by file descriptor."""
    with tempfile.TemporaryFile() as file, _captured(file.fileno()), _alarm(seconds):
        before, sys.argv = sys.argv, ["vit-interactions", *map(os.fspath, map(_text, arguments))]
        started, code = time.monotonic(), 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        except Hang:
            code = None
        finally:
            sys.argv = before
            sys.stdout.flush()
            sys.stderr.flush()
        taken = time.monotonic() - started
        file.seek(0)
        return Ended(code, file.read().decode("utf-8", "backslashreplace"), taken)


def _text(argument: object) -> str:
    return os.fspath(argument) if isinstance(argument, os.PathLike) else str(argument)


@contextmanager
def _captured(handle: int) -> Iterator[None]:
    streams, kept = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    # As Python opens its own: what cannot be encoded is an error on one, and escaped on the other.
    sys.stdout = io.TextIOWrapper(os.fdopen(os.dup(1), "wb", 0), "utf-8", "strict", write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(2), "wb", 0), "utf-8", "backslashreplace", write_through=True)
    try:
        yield
    finally:
        own = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = streams
        for stream in own:
            stream.close()
        for number, handle in enumerate(kept, 1):
            os.dup2(handle, number)
            os.close(handle)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    used, started = 0.0, time.process_time()

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal used
        earlier, used = used, time.process_time() - started
        if used > seconds or used - earlier < seconds / 100:  # else other processes took the time
            raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tree(root: Path, without: Path | None = None) -> dict[str, str]:
    """Return what is below a folder: path -> kind and content, links not followed."""
    found: dict[str, str] = {}
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = [name for name in names if here / name != without]
        for name in [*names, *files]:
            path = here / name
            if path == without:
                continue
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                content = oct(path.lstat().st_mode)
            found[str(path.relative_to(root))] = content
    return found


def try_out(sandbox: Sandbox, trial: Trial) -> Trial:
    """Run a trial and list what is wrong with how it ended."""
    before = tree(sandbox.root, trial.out)
    there = tree(trial.out) if trial.out and os.path.isdir(trial.out) else {}
    ended = trial.ended = run(trial.command, *trial.arguments)
    trial.problems += endings(trial, ended)
    after = tree(sandbox.root, trial.out)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            trial.problems.append(f"changed outside --out: {path!r}")
    if trial.out and os.path.isdir(trial.out):
        now = tree(trial.out)
        lost = [path for path in there if "mine" in path and now.get(path) != there[path]]
        trial.problems += [f"lost: {path!r}" for path in lost]
        trial.problems += [f"left: {path!r}" for path in now if path.endswith((".partial", ".lock", ".replaced"))]
        for page in (path for path in trial.out.rglob("*.html") if path.is_file()):
            trial.problems += injected(page.read_text(encoding="utf-8"))
    if sandbox.marker.exists():
        sandbox.marker.unlink()
        trial.problems.append("executed")
    return trial


def endings(trial: Trial, ended: Ended) -> list[str]:
    """List what is wrong with an exit code and what was printed."""
    found = []
    if ended.code is None:
        found.append("hang")
    elif ended.code not in trial.codes:
        silent = "silent: " if ended.code == 0 else ""
        found.append(f"{silent}exit code {ended.code} of {trial.codes}")
    if "Traceback" in ended.text:
        found.append("traceback")
    lines = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    if ended.code == 2 and (len(lines) != 1 or ended.text.rstrip("\n").splitlines()[-1] != lines[0]):
        found.append(f"{len(lines)} error lines")
    if raw := {char for char in ended.text if char not in "\n\t" and is_harmful(char)}:
        found.append(f"raw characters {sorted(raw)!a}")
    return found + [f"not named: {word!r}" for word in trial.named if word not in ended.text]


def is_harmful(char: str) -> bool:
    """Return whether a terminal would interpret a character instead of showing it."""
    return category(char) in ("Cc", "Cf", "Cs")


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [f"injected <{tag} {name}={value}>" for name, value in attributes if value == "alert(1)"]

    def handle_data(self, data: str) -> None:
        if data.strip() == "alert(1)":
            self.found.append("injected script")


def injected(page: str) -> list[str]:
    """List elements and attributes of a page that came from hostile text."""
    parser = _Elements()
    parser.feed(page)
    return parser.found


def failed_files(text: str) -> str:
    """Return the lines of a command's text that name images that could not be used."""
    return "\n".join(line for line in text.splitlines() if re.match(r"failed: |skipped: ", line))
