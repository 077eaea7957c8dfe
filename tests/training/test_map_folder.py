"""A folder of pictures and numbers that is whole at any time."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vit_interactions.training.log import read_rows
from vit_interactions.training.map_folder import TABLE, MapFolder

PICTURE = Image.new("RGB", (8, 4), "red")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        MapFolder(folder).add("explain", {"operations": step * 1.5, "fraction": None}, step, {"cat": PICTURE})


def test_steps_are_written_once_in_order(tmp_path: Path) -> None:
    write(tmp_path / "maps", 0, 31, 62)
    assert read_rows(tmp_path / "maps" / TABLE) == [
        {"step": 0.0, "operations": 0.0, "fraction": None},
        {"step": 31.0, "operations": 46.5, "fraction": None},
        {"step": 62.0, "operations": 93.0, "fraction": None},
    ]
    assert files(tmp_path / "maps") == [f"cat/step_{step:08}.png" for step in (0, 31, 62)] + [TABLE]
    (tmp_path / "maps" / "cat" / "step_mine.png").touch()
    write(tmp_path / "maps", 31)  # a run that resumed before step 31
    assert [row["step"] for row in read_rows(tmp_path / "maps" / TABLE)] == [0, 31]
    assert files(tmp_path / "maps") == [
        "cat/step_00000000.png",
        "cat/step_00000031.png",
        "cat/step_mine.png",
        TABLE,
    ]


def test_an_interrupted_write_leaves_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 0, 1)
    replace = os.replace
    for calls in range(3):  # the earlier rows, the picture, the rows with this step
        left = calls

        def interrupted(source: Any, target: Any) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path, 2)
        assert [row["step"] for row in read_rows(tmp_path / TABLE)] == [0, 1]
        for path in tmp_path.glob("cat/*.png"):
            Image.open(path).load()
        assert not list(tmp_path.rglob("*.partial"))
    write(tmp_path, 2)
    assert [row["step"] for row in read_rows(tmp_path / TABLE)] == [0, 1, 2]


def test_other_columns_are_added(tmp_path: Path) -> None:
    folder = MapFolder(tmp_path)
    folder.add("explain", {"operations": 1, "operations/cat": 1}, 0)
    folder.add("explain", {"operations": 2, "operations/dog": 2}, 1)
    assert read_rows(tmp_path / TABLE) == [
        {"step": 0.0, "operations": 1.0, "operations/cat": 1.0, "operations/dog": None},
        {"step": 1.0, "operations": 2.0, "operations/cat": None, "operations/dog": 2.0},
    ]
