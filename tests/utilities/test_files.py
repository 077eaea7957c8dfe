"""Files are whole or not there at all, and JSON is what every parser reads."""

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_interactions.compare.plan import describe_metric
from vit_interactions.metrics import METRICS
from vit_interactions.utilities.files import write_json, write_whole
from vit_interactions.utilities.writing import WriteError


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_file_that_could_not_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def broken(file: Any) -> None:
        file.write(b"ne")
        raise OSError("no space left")

    with pytest.raises(WriteError, match=r"file could not be written: no space left\."):
        write_whole(path, broken)

    def interrupted(file: Any) -> None:
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, interrupted)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_under_torch_is_told(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match=r"model\.pt could not be written: No space left on device\. Free some"):
        write_whole(tmp_path / "model.pt", lambda _: torch.save({"weight": torch.ones(9)}, Full()))
    with pytest.raises(RuntimeError, match="another reason"):
        write_whole(tmp_path / "model.pt", lambda _: (_ for _ in ()).throw(RuntimeError("another reason")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path, number: float) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"number": 0.1, "text": "NaN"})
    with pytest.raises(ValueError, match=r"file\.json must hold finite numbers only"):
        write_json(path, {"deep": [{"in": number}]})
    assert strict(path.read_text()) == {"number": 0.1, "text": "NaN"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", METRICS)
def test_the_range_of_a_metric_is_json(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / "metric.json", describe_metric(METRICS[name]))
    low, high = strict((tmp_path / "metric.json").read_text())["range"]
    expected_low, expected_high = METRICS[name].range
    assert low == expected_low
    assert high == (None if expected_high == float("inf") else expected_high)
    assert (high is None) == (name == "sensitivity")
