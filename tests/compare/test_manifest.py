"""An edited or damaged manifest is named with its key."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command_line import set_field
from tests.helpers.damaged_comparison import compare
from vit_interactions.compare.comparison import Comparison
from vit_interactions.utilities.json_files import DamagedFileError


def edited(content: dict[str, Any], keys: str, value: Any) -> dict[str, Any]:
    """Return the content with another value at a path of keys; without the key if the value is `...`."""
    changed: Any = json.loads(json.dumps(content))
    set_field(changed, keys, value)
    return dict(changed)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        ("settings", ..., "has no `settings`"),
        ("settings", 3, "`settings` must be an object, got 3"),
        ("settings/alpha", "x", "`settings.alpha` must be a number, got 'x'"),
        ("settings/alpha", True, "`settings.alpha` must be a number, got True"),
        ("settings/alpha", float("nan"), "`settings.alpha` must be a number, got nan"),
        ("settings/coverage", ..., "has no `settings.coverage`"),
        ("settings/exclude_sinks", "no", "`settings.exclude_sinks` must be a boolean, got 'no'"),
        ("settings/seed", 0.5, "`settings.seed` must be a whole number, got 0.5"),
        ("settings/methods", [], "`settings.methods` must be an object, got []"),
        ("settings/methods/raw_attention", 1, "`settings.methods.raw_attention` must be an object, got 1"),
        ("settings/metrics/deletion/direction", ..., "has no `settings.metrics.deletion.direction`"),
        ("versions", None, "`versions` must be an object, got None"),
        ("models", {}, "`models` must have at least one, got none"),
        ("models/vit", [], "`models.vit` must be an object, got []"),
        ("models/vit/folder", "../../vit", "`models.vit.folder` must be the name of a file, got '../../vit'"),
        ("images", [], "`images` must have at least one, got none"),
        ("images/1/key", ..., "has no `images[1].key`"),
        ("images/0/key", "/etc/x", "`images[0].key` must be the name of a file, got '/etc/x'"),
        ("images/0/boxes", [3], "`images[0].boxes[0]` must be an object, got 3"),
        ("images/0/mask", 3, "`images[0].mask` must be a string or null, got 3"),
    ],
)
def test_an_edited_manifest_is_named_with_its_key(keys: str, value: Any, words: str, copied: Path) -> None:
    path = copied / "out" / "comparison.json"
    path.write_text(json.dumps(edited(json.loads(path.read_text()), keys, value)))
    before = path.read_text()
    for read in (lambda: Comparison.open(copied / "out"), lambda: compare(copied, resume=True)):
        with pytest.raises(DamagedFileError) as found:
            read()
        assert str(found.value).startswith(str(path))
        assert f"{words}. Restore the file, or compare again into another folder." in str(found.value)
    assert path.read_text() == before


@pytest.mark.parametrize(("keys", "value", "found"), [("format", 3, "3"), ("format", ..., "1")])
def test_a_manifest_of_another_format_is_named(keys: str, value: Any, found: str, copied: Path) -> None:
    path = copied / "out" / "comparison.json"
    content = edited(json.loads(path.read_text()), keys, value)
    if value is ...:  # of the first format, which had no number
        content["photographs"] = content.pop("images")
    path.write_text(json.dumps(content))
    for read in (lambda: Comparison.open(copied / "out"), lambda: compare(copied, resume=True)):
        with pytest.raises(
            DamagedFileError, match=rf"comparison\.json must have format 2, got {found} of another version"
        ):
            read()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 200_000], ids=str)
def test_a_manifest_that_is_not_json_is_named(content: bytes, copied: Path) -> None:
    (copied / "out" / "comparison.json").write_bytes(content)
    for read in (lambda: Comparison.open(copied / "out"), lambda: compare(copied, resume=True)):
        with pytest.raises(DamagedFileError, match=r"comparison\.json (is damaged|must contain a JSON object)"):
            read()


def test_a_manifest_with_another_value_does_not_fit_its_records(copied: Path) -> None:
    path = copied / "out" / "comparison.json"
    path.write_text(path.read_text().replace('"alpha": 0.1', '"alpha": 0.2'))
    with pytest.raises(DamagedFileError, match=r"a\.json was measured with other settings, versions or weights"):
        Comparison.open(copied / "out").table()
