"""Commands print escape sequences, control characters, bidi marks and markup as plain text."""

import io
import logging
import warnings
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tests.helpers.command_line import run
from vit_interactions.utilities.console import SafeConsole, make_warnings_printable

EVIL = "a\x1b[31m\x1b]0;owned\x07\x9b2J\u202etxt\u2066\r[/red][bold]:cat:\nb"
HARMFUL = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r")


def printed(*renderables: object, terminal: bool = False, **options: object) -> str:
    file = io.StringIO()
    SafeConsole(file=file, width=200, force_terminal=terminal, color_system=None).print(*renderables, **options)
    return file.getvalue()


def test_a_string_prints_as_one_safe_line_without_markup() -> None:
    text = printed(EVIL, soft_wrap=True)
    assert not [char for char in HARMFUL if char in text]
    assert text.count("\n") == 1
    assert "[/red][bold]:cat:" in text


def test_tables_texts_and_titles_are_safe() -> None:
    table = Table(EVIL, title=Text(EVIL))
    table.add_row(EVIL)
    text = printed(table, Text(EVIL))
    assert not [char for char in HARMFUL if char in text]
    assert text.count("[/red][bold]:cat:") == 4


def test_progress_bars_are_safe_and_keep_their_control_codes() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, width=200, force_terminal=True, color_system=None)
    with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
        progress.add_task(EVIL, total=1)
    assert "\x1b[?25l" in file.getvalue()  # rich hides the cursor
    for harmful in ("\x1b[31m", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert harmful not in file.getvalue()


def test_warnings_and_log_messages_are_safe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    make_warnings_printable()
    assert "\x1b" not in warnings.formatwarning(UserWarning(EVIL), UserWarning, "file.py", 1)
    assert logging.lastResort is not None
    record = logging.LogRecord("timm", logging.WARNING, "file.py", 1, EVIL, None, None)
    assert "\x1b" not in logging.lastResort.format(record)


def test_every_command_prints_file_names_safely(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a\x1b[31m.png", "a\u202egnp.png", "[bold][red].png", "a\nfailed: b.png"):
        (folder / name).write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save(folder / "good.png")
    torch.save(timm.create_model("test_vit", num_classes=2).state_dict(), tmp_path / "weights.pt")
    model = ["--model", "test_vit", "--checkpoint", tmp_path / "weights.pt"]
    for command in (
        ["explain", folder, *model, "--method", "raw_attention", "--out", tmp_path / "explained"],
        [
            "compare",
            folder,
            *model,
            "--method",
            "raw_attention",
            "--metric",
            "deletion",
            "--out",
            tmp_path / "all",
        ],
        ["explore", folder, *model, "--out", tmp_path / "pages"],
        ["curve", folder, *model, "--out", tmp_path / "curve.png", "--alpha", "0.1"],
    ):
        code = run(*command)
        out, err = capfd.readouterr()
        assert code == 1, (command[0], err)
        assert "\nfailed: b" not in err
        assert not [char for char in HARMFUL[:5] if char in out + err], command[0]
        assert "[bold][red].png" in err


def test_checkpoint_keys_print_safely(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = timm.create_model("test_vit", num_classes=2).state_dict() | {EVIL: torch.ones(1)}
    torch.save(weights, tmp_path / "weights.pt")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    checkpoint = tmp_path / "weights.pt"
    code = run(
        "explain", tmp_path / "a.png", "--model", "test_vit", "--checkpoint", checkpoint, "--out", tmp_path / "o"
    )
    assert code == 2
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("error: `checkpoint`")
    assert not [char for char in HARMFUL if char in err]


def test_what_a_stream_cannot_encode_is_replaced() -> None:
    name = "\N{HIRAGANA LETTER NE}\N{LATIN SMALL LETTER E WITH ACUTE}"
    for encoding, expected in (
        ("ascii", "??\n"),
        ("latin-1", "?\N{LATIN SMALL LETTER E WITH ACUTE}\n"),
        ("utf-8", f"{name}\n"),
    ):
        file = io.TextIOWrapper(io.BytesIO(), encoding)
        SafeConsole(file=file, width=80).print(name)
        file.seek(0)
        assert file.read() == expected
    escaped = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")  # as standard error
    SafeConsole(file=escaped, width=80).print(name)
    escaped.seek(0)
    assert escaped.read() == "\\u306d\\xe9\n"
