"""Printable strings and suggestions."""

import pytest

from vit_interactions.utilities.text import did_you_mean, printable, spreadsheet_text


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\udcff", "\r"])
def test_characters_that_are_not_shown_are_replaced(char: str) -> None:
    assert printable(f"a{char}b") == "a\ufffdb"
    assert printable(f"a{char}\nb", lines=True) == "a\ufffd\nb"


def test_letters_and_spaces_of_every_script_are_kept() -> None:
    for text in ("caf\u00e9", "\u732b\u3000\u72ac", "1\u202fPM", "\U0001f408"):
        assert printable(text) == text


@pytest.mark.parametrize("char", [*"=+-@", *map(chr, (0xFF1D, 0xFF0B, 0xFF0D, 0xFF20))])
def test_text_cannot_run_as_a_formula(char: str) -> None:
    assert spreadsheet_text(f"{char}1") == f"'{char}1"
    assert spreadsheet_text(f" {char}1") == f"' {char}1"
    assert spreadsheet_text(f"a{char}1") == f"a{char}1"
    assert spreadsheet_text("") == ""


def test_close_names_are_suggested_and_others_are_not() -> None:
    names = ["deletion", "insertion", "token_deletion"]
    assert did_you_mean("deletoin", names) == " Did you mean deletion or token_deletion?"
    assert did_you_mean("token", names) == " Did you mean token_deletion?"
    assert did_you_mean("xyz", names) == ""
