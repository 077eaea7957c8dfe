"""Writes are atomic, and text files are read in any Unicode encoding."""

import errno
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_interactions.utilities.files import WriteError, read_text, write_atomically


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def broken(file: Any) -> None:
        file.write(b"ne")
        raise OSError("no space left")

    with pytest.raises(WriteError, match=r"file could not be written: no space left\."):
        write_atomically(path, broken)

    def interrupted(file: Any) -> None:
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_during_torch_save_raises_write_error(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match=r"model\.pt could not be written: No space left on device\. Free some"):
        write_atomically(tmp_path / "model.pt", lambda _: torch.save({"weight": torch.ones(9)}, Full()))
    with pytest.raises(RuntimeError, match="another reason"):
        write_atomically(tmp_path / "model.pt", lambda _: (_ for _ in ()).throw(RuntimeError("another reason")))
    assert list(tmp_path.iterdir()) == []


TEXT = "ant\r\nbée\ncat\r"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_keeps_line_endings_and_drops_the_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert read_text("names", tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", r"in line 1 of .*byte 0xff is not UTF-8"),
        (b"ant\nb\xe9e\n", r"in line 2 of .*byte 0xe9 is not UTF-8"),
        (b"\xef\xbb\xbfant\nbee\nc\xe0t\n", r"in line 3 of .*byte 0xe0 is not UTF-8"),
        ("ant\n\u0a0a\nbee".encode("utf-16")[:-1], r"in line 3 of .*byte 0x65 is not UTF-16"),
        ("ant\n".encode("utf-16-le"), "zero bytes in"),
    ],
)
def test_other_encodings_raise_and_name_the_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"`names` must be text in UTF-8, got .*{words}"):
        read_text("names", tmp_path / "a.txt")
