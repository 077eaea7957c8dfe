"""The CSV files of a comparison: hand-made tables, hostile names, and runs that are watched, killed and resumed."""

import csv
import io
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import vit_interactions as vi
from tests.helpers.comparing import FIRST, make_metric
from tests.helpers.resumed import METHODS, METRICS, compare
from vit_interactions.compare import csv_files, records
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.csv_files import CsvFiles, csv_text
from vit_interactions.metrics import Score
from vit_interactions.utilities.files import write_text

COLUMNS = ["model", "image", "target", "method", "metric", "value", "direction"]


def scores(path: Path) -> pd.DataFrame:
    """Read a table without the costs, which vary from run to run."""
    table = pd.read_csv(path)
    return table[~table["metric"].isin([*COSTS])].reset_index(drop=True)


def test_names_cannot_run_as_formulas_and_numbers_stay_numbers() -> None:
    names = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        " =1",
        "\N{FULLWIDTH EQUALS SIGN}1",
        'a","b',
        "a\n=1",
        "ok",
    ]
    table = pd.DataFrame({"method": names, "value": np.linspace(-1, 1, len(names)), "count": -1})
    rows = list(csv.reader(io.StringIO(csv_text(table))))
    assert rows[0] == ["method", "value", "count"]
    expected = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "\ufffd=1", "\ufffd=1", "' =1", "'\N{FULLWIDTH EQUALS SIGN}1"]
    assert [row[0] for row in rows[1:]] == [*expected, 'a","b', "a\ufffd=1", "ok"]
    assert [float(row[1]) for row in rows[1:]] == table["value"].tolist()  # every digit, and no apostrophe
    assert {row[2] for row in rows[1:]} == {"-1"}


def test_missing_values_are_empty() -> None:
    table = pd.DataFrame({"a": [0.1, float("nan")], "b": pd.array([3, None], dtype="Int64")})
    assert csv_text(table) == "a,b\n0.1,3\n,\n"
    assert csv_text(table[:0]) == "a,b\n"


def test_both_files_have_the_numbers_of_the_records(
    model: nn.Module, image_files: list[Path], tmp_path: Path
) -> None:
    lower = make_metric("=own", lambda case, patch_map: Score(float(patch_map.sum())))
    out = tmp_path / "out"
    methods = {"@gmar": "gmar", "random_map": "random_map"}
    comparison = vi.compare(image_files, {"-m": model}, methods, [FIRST, lower], target=2, out=out)
    table = pd.read_csv(out / "table.csv")
    assert list(table.columns) == COLUMNS
    assert set(table["model"]) == {"'-m"}
    assert set(table["target"]) == {2}
    assert set(table["metric"]) >= {"first", "'=own", "forwards"}
    values: list[float] = []
    for key in ("square", "tall", "wide"):
        record = comparison.record("-m", key)
        rows = table[(table["image"] == key) & (table["method"] == "'@gmar")].set_index("metric")
        assert rows.loc["first", "value"] == pytest.approx(record.maps["@gmar"][0, 0], rel=1e-14)
        assert rows.loc["'=own", "value"] == pytest.approx(record.maps["@gmar"].sum())
        assert rows["direction"].to_dict() == {
            "first": "higher",
            "'=own": "higher",
            **dict.fromkeys(COSTS, "lower"),
        }
        values.append(rows.loc["forwards", "value"])
    summary = pd.read_csv(out / "summary.csv")
    costs = ["cost", "forward_passes", "backward_passes"]
    assert list(summary.columns) == [
        *("model", "method", "metric", "mean", "low", "high", "images", "direction"),
        *costs,
    ]
    rows = summary[summary["method"] == "'@gmar"].set_index("metric")
    firsts = [comparison.maps("-m", key)["@gmar"][0, 0] for key in ("square", "tall", "wide")]
    assert rows.loc["first", "mean"] == pytest.approx(np.mean(firsts))
    assert rows.loc["first", "low"] < rows.loc["first", "mean"] < rows.loc["first", "high"]
    assert rows["images"].tolist() == [3] * len(rows)
    assert rows["cost"].tolist() == pytest.approx([np.mean(values)] * len(rows))
    assert rows[costs[1:]].drop_duplicates().to_numpy().tolist() == [[1, 1]]  # GMAR: one pass forward, one back


def _watched(root: Path) -> list[list[str]]:
    """Run a comparison that writes its files after each image; return the images of each `table.csv`."""
    seen: list[list[str]] = []
    written = write_text

    def watch(path: Path, text: str) -> None:
        written(path, text)
        table, summary = (pd.read_csv(path.parent / name) for name in ("table.csv", path.name))
        seen.append(list(table["image"].unique()))
        if path.name == "summary.csv":
            assert set(summary["images"]) == {len(seen[-1])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "PAUSE", 0)
        patch.setattr(csv_files, "write_text", watch)
        compare(root)
    return seen


def test_the_files_grow_image_by_image(root: Path) -> None:
    assert _watched(root) == [
        list("abcd")[:count] for count in (1, 1, 2, 2, 3, 3, 4, 4, 4, 4)
    ]  # two files; again at the end


def test_writing_pauses_in_proportion_to_its_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(root)
    now, count = [0.0], [0]

    def slow(results: object) -> None:
        now[0] += 2
        count[0] += 1

    monkeypatch.setattr(csv_files, "write_csv_files", slow)
    monkeypatch.setattr(csv_files.time, "monotonic", lambda: now[0])
    files = CsvFiles(root / "out")
    for moment, written in ((0, 1), (3, 1), (101, 1), (102, 2)):  # 2 + 50 x 2
        now[0] = moment
        files.update()
        assert count[0] == written


def _killed(root: Path) -> None:
    torch.set_num_threads(1)
    original, calls = records.write_json, 0

    def counted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments)

    csv_files.PAUSE = 0
    records.write_json = counted
    compare(root)


def test_a_killed_run_leaves_readable_files_and_resumes_to_the_same(root: Path) -> None:
    compare(root, out=root / "whole")
    whole = scores(root / "whole" / "table.csv")
    assert len(whole) == 4 * len(METHODS) * len(METRICS)
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(root,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    pd.testing.assert_frame_equal(scores(root / "out" / "table.csv"), whole[: len(whole) // 2], check_exact=True)
    assert set(pd.read_csv(root / "out" / "summary.csv")["images"]) == {2}
    compare(root, resume=True)
    pd.testing.assert_frame_equal(scores(root / "out" / "table.csv"), whole, check_exact=True)
    before = [(root / "out" / name).read_bytes() for name in ("table.csv", "summary.csv")]
    for name in ("table.csv", "summary.csv"):
        (root / "out" / name).write_text("edited")
    compare(root, resume=True)  # nothing is measured, so the costs are the same too
    assert [(root / "out" / name).read_bytes() for name in ("table.csv", "summary.csv")] == before


def test_damaged_records_do_not_stop_a_resumed_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(root)
    [folder] = (root / "out" / "records").iterdir()
    whole = scores(root / "out" / "table.csv")
    for key in "ad":
        (folder / f"{key}.json").write_text("{}")
    monkeypatch.setattr(csv_files, "PAUSE", 0)
    compare(root, resume=True)  # d is still damaged when a has been measured
    pd.testing.assert_frame_equal(scores(root / "out" / "table.csv"), whole, check_exact=True)


def test_a_folder_in_the_place_of_a_file_is_named(root: Path) -> None:
    compare(root)
    (root / "out" / "table.csv").unlink()
    (root / "out" / "table.csv").mkdir()
    with pytest.raises(ValueError, match=r"table\.csv must be a file, got a folder\. Move it away and resume\."):
        compare(root, resume=True)
    assert Comparison.open(root / "out").unfinished == 0
