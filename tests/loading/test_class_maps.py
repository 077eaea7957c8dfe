"""Class maps in the formats of common editors, and errors that name the line."""

import os
import unicodedata
from pathlib import Path

import pytest

from vit_interactions.loading.class_maps import ClassNames, abbreviate, names_of_config, read_class_map

NAMES = ("ant", "bee", "cat")


@pytest.mark.parametrize(
    "content",
    [
        b"ant\nbee\ncat\n",
        b"ant\nbee\ncat",
        b"ant\r\nbee\r\ncat\r\n",
        b"ant\rbee\rcat\r",
        b"\xef\xbb\xbfant\nbee\ncat\n",
        "ant\nbee\ncat\n".encode("utf-16"),
        b"ant \n\tbee\ncat\n",
        b"ant\nbee\ncat\n\n \n",
    ],
)
def test_valid_maps(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_bytes(content)
    assert read_class_map(tmp_path / "map.txt", 3).names == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ant\n\nbee\ncat\n", r"map.txt must have a class name in each line, got an empty line 2\."),
        (b"\nant\nbee\ncat\n", "got an empty line 1"),
        (b"\xef\xbb\xbf\nant\nbee\ncat\n", "got an empty line 1"),
        (b"", "got an empty line 1"),
        (b"ant\nbee\nbee\ncat\n", "must name each class once, got 'bee' as entries 2 and 3"),
        (b"ant\nbee\n", "a line for each of the model's 3 classes, got 2 lines in"),
        (b"ant\nbee\ncat\ndog\neel\n", "a line for each of the model's 3 classes, got 5 lines in"),
        ("ant\nbée\ncat\n".encode("latin-1"), "text in UTF-8, got another encoding in line 2 of .*map.txt"),
        ("ant\nbee\ncat\n".encode("utf-16")[:-1], r"text in UTF-8, got another encoding in line 3 .*not UTF-16"),
        ("ant\nbee\ncat\n".encode("utf-16-le"), "must be text in UTF-8, got zero bytes"),
        ("cafe\u0301\ncaf\u00e9\ncat\n".encode(), "must name each class once"),
    ],
)
def test_invalid_maps_raise(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_class_map(tmp_path / "map.txt", 3)


def test_missing_and_special_files_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`class_map` must be a file, got nothing at"):
        read_class_map(tmp_path / "gone.txt", 3)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="`class_map` must be a file, got a named pipe at"):
        read_class_map(tmp_path / "pipe.txt", 3)


def test_accents_match_however_they_are_encoded() -> None:
    composed = "caf\u00e9"
    decomposed = unicodedata.normalize("NFD", composed)
    assert ClassNames(("tea", composed), "x").class_to_idx([decomposed]) == {decomposed: 1}
    assert ClassNames((decomposed, "tea"), "x").class_to_idx([composed]) == {composed: 0}


def test_names_of_a_config() -> None:
    assert names_of_config(["a", "b"], 2).class_to_idx(["b"]) == {"b": 1}
    with pytest.raises(ValueError, match="must name each of the model's 3 classes, got 2 names"):
        names_of_config(["a", "b"], 3)
    with pytest.raises(ValueError, match="must name each class once, got 'a' as entries 1 and 2"):
        names_of_config(["a", "a"], 2)
    for names in ("ab", {"a": 0, "b": 1}, [1, 2]):
        with pytest.raises(ValueError, match="must be a list of names, got "):
            names_of_config(names, 2)


def test_long_lists_are_abbreviated() -> None:
    assert abbreviate(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert abbreviate(["a"]) == "a"
