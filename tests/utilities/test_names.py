"""File and folder names made from any text are valid on every system and unique."""

import random
import re
import unicodedata
from itertools import islice
from pathlib import Path

import pytest

from tests.helpers.hostile_names import PIECES
from vit_interactions.compare.plan import slugs
from vit_interactions.utilities.files import partial_path
from vit_interactions.utilities.names import (
    LIMIT,
    Names,
    collision_key,
    numbered_names,
    safe_name,
    shorten,
    unique_names,
)


def nasty_texts(count: int) -> list[str]:
    draw = random.Random(0)
    return PIECES + ["".join(draw.choices(PIECES, k=draw.randint(1, 5))) for _ in range(count)]


def is_safe(name: str) -> bool:
    device = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d) *(\..*)?", name)
    return (
        0 < len(name.encode()) <= LIMIT
        and name[0] not in ". "
        and name[-1] not in ". "
        and not device
        and not set(name) & set('/\\:*?"<>|')
        and all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in name)
        and unicodedata.is_normalized("NFC", name)
    )


def test_any_text_gives_a_valid_name() -> None:
    for text in nasty_texts(5000):
        name = safe_name(text)
        assert is_safe(name), (text, name)
        assert safe_name(name) == name, text
        assert safe_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat", "cat"),
        ("Größe 3 (neu)", "Größe 3 (neu)"),
        ("", "unnamed"),
        ("..", "unnamed"),
        (". .", "unnamed"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("con", "_con"),
        ("Com1.jpg", "_Com1.jpg"),
        ("company", "company"),
        ("e\N{COMBINING ACUTE ACCENT}", "é"),
        ("a\x1b[31mb", "a_[31mb"),
    ],
)
def test_names_stay_readable(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_long_texts_with_the_same_start_get_different_names() -> None:
    first, second = safe_name("x" * 200 + "a"), safe_name("x" * 200 + "b")
    assert first != second
    assert first[:80] == second[:80] == "x" * 80
    assert safe_name("é" * 200) == safe_name("e\N{COMBINING ACUTE ACCENT}" * 200)


def test_names_are_unique_regardless_of_case() -> None:
    texts = nasty_texts(1500)
    for names in (unique_names(texts), slugs(texts)):
        assert len(names) == len(texts)
        assert len({collision_key(name) for name in names}) == len(texts)
        assert all(len(name.encode()) <= LIMIT + 5 for name in names)
    assert unique_names(["ß", "ss", "SS"]) == ["ß", "ss-2", "SS-3"]


def test_an_existing_name_is_reused_only_by_its_owner() -> None:
    names = Names(["cat", "cat-2", "Dog"], reserved=["report.html"])
    assert names.choose(numbered_names("cat")) == "cat-3"
    assert names.choose(numbered_names("cat"), lambda existing: existing == "cat-2") == "cat-2"
    assert names.choose(numbered_names("dog"), lambda existing: True) == "Dog"
    assert names.choose(numbered_names("REPORT", ".HTML")) == "REPORT-2.HTML"
    names.use("cat-3")
    assert names.choose(numbered_names("cat")) == "cat-4"


def test_compare_avoids_names_that_windows_reserves() -> None:
    assert slugs(["con.jpg", "NUL"]) == ["_con", "_nul"]


def test_numbered_names_count_from_two() -> None:
    assert list(islice(numbered_names("a", ".b"), 3)) == ["a.b", "a-2.b", "a-3.b"]


@pytest.mark.parametrize("name", ["x" * 255, "猫" * 85])
def test_temporary_names_of_the_longest_names_are_valid(name: str, tmp_path: Path) -> None:
    partial = partial_path(tmp_path / name, 12)
    partial.touch()
    assert partial != partial_path(tmp_path / f"{name[:-1]}y", 12)
    assert shorten(name, 200) != shorten(f"{name[:-1]}y", 200)
    assert len(shorten(name, 200).encode()) <= 200
