"""Numbers that JSON does not have are rejected."""

import json
from pathlib import Path
from typing import Any

import pytest

from vit_interactions.compare.plan import describe_metric
from vit_interactions.metrics import METRICS
from vit_interactions.utilities.json_files import write_json


def strict(text: str) -> Any:
    def fail(name: str) -> None:
        raise AssertionError(f"{name} is not valid JSON")

    return json.loads(text, parse_constant=fail)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_numbers_are_rejected_in_json(tmp_path: Path, number: float) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"number": 0.1, "text": "NaN"})
    with pytest.raises(ValueError, match=r"file\.json must contain finite numbers only"):
        write_json(path, {"deep": [{"in": number}]})
    assert strict(path.read_text()) == {"number": 0.1, "text": "NaN"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", METRICS)
def test_metric_ranges_are_valid_json(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / "metric.json", describe_metric(METRICS[name]))
    low, high = strict((tmp_path / "metric.json").read_text())["range"]
    expected_low, expected_high = METRICS[name].range
    assert low == (None if expected_low == -float("inf") else expected_low)
    assert high == (None if expected_high == float("inf") else expected_high)
    assert (high is None) == (name in ("sensitivity", "completeness_error", "normalized_aopc"))
