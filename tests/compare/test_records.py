"""Damaged, edited or foreign records are named and measured again."""

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.helpers.damaged_comparison import METRICS, compare
from vit_interactions.compare import records
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.report.page import report
from vit_interactions.utilities.json_files import DamagedFileError


def quality(comparison: Comparison) -> pd.DataFrame:
    """Return the values that are the same in each run."""
    table = comparison.table()
    return table[table["metric"].isin(METRICS)].reset_index(drop=True)


def archive(**arrays: Any) -> bytes:
    file = BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


class Code:
    """A pickle that would make a file when it is loaded."""

    def __reduce__(self) -> Any:
        return open, ("executed", "w")


def objects() -> bytes:
    values = np.empty(1, object)
    values[0] = Code()
    return archive(**{"map/raw_attention": values})


MAPS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-1],
    "flipped": lambda content: content[:150] + bytes([content[150] ^ 1]) + content[151:],
    "text": lambda content: b"hello",
    "pickled": lambda content: pickle.dumps(Code()),
    "objects": lambda content: objects(),
    "nan": lambda content: archive(**{"map/raw_attention": np.full((4, 4), np.nan)}),
    "missing": lambda content: archive(),
}

NUMBERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "null": lambda content: b"null",
    "truncated": lambda content: content[:-3],
    "deep": lambda content: b"[" * 200_000,
    "digits": lambda content: b'{"a": ' + b"9" * 5000 + b"}",
    "bytes": lambda content: b"\xff\xfe",
    "another value": lambda content: content.replace(b"0.", b"1.", 1),
    "NaN": lambda content: content.replace(b'"window_fraction": null', b'"window_fraction": NaN'),
}


@pytest.mark.parametrize(
    ("ending", "damage"),
    [pytest.param(".npz", change, id=f"maps {name}") for name, change in MAPS.items()]
    + [pytest.param(".json", change, id=f"numbers {name}") for name, change in NUMBERS.items()],
)
def test_a_damaged_record_is_named_and_measured_again(
    ending: str,
    damage: Callable[[bytes], bytes],
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(copied)
    wanted = Comparison.open(copied / "out")
    values, maps = quality(wanted), wanted.maps("vit", "a")
    path = copied / "out" / "records" / "vit" / f"a{ending}"
    assert damage(path.read_bytes()) != path.read_bytes()
    path.write_bytes(damage(path.read_bytes()))
    for read in (Comparison.table, Comparison.notes, lambda opened: report(opened, copied / "report.html")):
        with pytest.raises(DamagedFileError) as found:
            read(Comparison.open(copied / "out"))
        assert str(path) in str(found.value)
        assert str(found.value).endswith("Resume the comparison to measure it again.")
        assert "\n" not in str(found.value)
    capsys.readouterr()
    resumed = compare(copied, resume=True)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if str(path) in line and line.startswith("measuring again: ")] == said
    pd.testing.assert_frame_equal(quality(resumed), values)
    for method, values_of_map in resumed.maps("vit", "a").items():
        np.testing.assert_array_equal(values_of_map, maps[method])
    assert not (copied / "executed").exists()


def test_objects_in_maps_are_not_loaded_even_where_the_checksum_fits(copied: Path) -> None:
    file = copied / "out" / "records" / "vit" / "a.npz"
    record = records.Record({}, values={"raw_attention": {}})
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged \(ValueError\)\. Resume"):
        records.load_arrays(record, file, objects())
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["a.json", "a.npz"])
def test_a_folder_instead_of_a_record_is_named_and_kept(name: str, copied: Path) -> None:
    path = copied / "out" / "records" / "vit" / name
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=rf"{name} must be a file, got a folder\. Move it away and resume"):
        compare(copied, resume=True)
    with pytest.raises(DamagedFileError, match=rf"{name} must be a file, got a folder"):
        Comparison.open(copied / "out").table()
    assert (path / "mine.txt").read_text() == "mine"


def test_a_record_of_another_image_or_comparison_is_measured_again(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = quality(Comparison.open(copied / "out"))
    folder = copied / "out" / "records" / "vit"
    compare(copied, alpha=0.5, out=copied / "other")
    for ending in (".json", ".npz"):
        (folder / f"a{ending}").write_bytes((folder / f"b{ending}").read_bytes())
        (folder / f"b{ending}").write_bytes((copied / "other" / "records" / "vit" / f"b{ending}").read_bytes())
    with pytest.raises(DamagedFileError, match=r"a\.json is damaged or was edited"):
        Comparison.open(copied / "out").table()
    pd.testing.assert_frame_equal(quality(compare(copied, resume=True)), wanted)
    assert "measuring again" in capsys.readouterr().err


def test_resuming_removes_what_a_kill_left_half_written(copied: Path) -> None:
    stale = [
        copied / "out" / ".comparison.json.partial",
        copied / "out" / "records" / "vit" / ".a.npz.partial",
        copied / "out" / "records" / "vit" / ".gone.json.partial",
    ]
    mine = copied / "out" / "records" / "vit" / "mine.partial"
    for path in (*stale, mine):
        path.write_bytes(b"half")
    compare(copied, resume=True)
    assert [path for path in stale if path.exists()] == []
    assert mine.exists()
