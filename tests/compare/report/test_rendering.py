"""Test that settings are written for readers."""

import json
from typing import Any

from vit_interactions.compare.report import rendering as report_templates


def test_settings_are_written_as_people_read_them() -> None:
    words: Any = report_templates._format_value
    assert words({"a": [1, 2], "b": {"c": None}}) == "a = [1, 2], b = c = null"
    assert words("x") == "x"
    assert words(json.loads("0.1")) == "0.1"
