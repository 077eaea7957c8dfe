"""Text files of users: their encodings, and errors that name the line."""

from pathlib import Path

import pytest

from vit_interactions.utilities.text_files import read_text_file

TEXT = "ant\r\nbée\ncat\r"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_with_its_line_ends_and_without_its_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert read_text_file("names", tmp_path / "a.txt") == TEXT


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
def test_other_encodings_are_refused_with_the_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"`names` must be text in UTF-8, got .*{words}"):
        read_text_file("names", tmp_path / "a.txt")
