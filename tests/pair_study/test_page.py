"""The page of a study: its numbers, untrusted text, failures, and a phone."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers.browser import page
from tests.helpers.pages import Outline
from tests.helpers.pair_studies import record_of
from vit_interactions.pair_study.page import DIFFERENCE, PAGE, REASONS, render, score_table, write_page
from vit_interactions.pair_study.panels import AREA_TITLES, CORRELATION_TITLES
from vit_interactions.pair_study.run import PairStudy
from vit_interactions.pair_study.summary import summarize_pairs
from vit_interactions.utilities.json_files import write_json

SCRIPT = "<script>window.pwned = 1</script>"
IMAGE = "<img src=x onerror='window.pwned = 1'>.png"
PASSES = {"perfect": (1, 0), "opposite": (1, 1), "unrelated": (2, 2), f"gmar:norm={SCRIPT}": (1, 1)}
CONTENT: dict[str, Any] = {
    "settings": {"pairs": 30, "contexts": 4, "weighting": SCRIPT, "steps": 4, "seed": 0},
    "methods": {name: {"method": "gmar", "options": {"norm": SCRIPT}, "library": IMAGE} for name in PASSES},
    "model": {"device": "cpu", "weights": SCRIPT},
    "versions": {"torch": "2.6"},
    "images": [{"name": name, "sha256": "0" * 64} for name in (SCRIPT, IMAGE, "broken.png")],
}


def study() -> PairStudy:
    records = {}
    for seed, name in enumerate((SCRIPT, IMAGE)):
        record = record_of(seed, noise=0.3)
        hostile = f"gmar:norm={SCRIPT}"
        record.values[hostile], record.curves[hostile] = record.values["unrelated"], record.curves["perfect"]
        records[name] = record
    for part in (records[IMAGE].values, records[IMAGE].curves):
        del part["opposite"]
    failed = replace(records[IMAGE], failures={"opposite": f"undefined {SCRIPT}"})
    return PairStudy({SCRIPT: records[SCRIPT], IMAGE: failed}, {f"folder/{SCRIPT}broken.png": f"no image {IMAGE}"})


@pytest.fixture(scope="module")
def summary() -> pd.DataFrame:
    return summarize_pairs(study().records, PASSES)


@pytest.fixture(scope="module")
def path(summary: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_json(folder / "study.json", CONTENT)
    write_page(study(), summary, f"vit {SCRIPT}", folder)
    return folder / PAGE


def test_nothing_from_outside_becomes_a_tag_or_an_address(path: Path) -> None:
    outline = Outline(path.read_text(encoding="utf-8"))
    assert outline.open == []
    assert [tag for tag, _ in outline.tags].count("script") == 1
    for tag, attributes in outline.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "srcset", "href"):
            address = attributes.get(name) or "#x"
            assert re.match(r"data:(image|text)/[\w+-]+[;,]|#\w+$|https://arxiv\.org/abs/", address)
        assert attributes.get("src") != "x"


def test_a_phone_shows_it_without_scrolling_sideways_and_runs_no_script_of_names(path: Path) -> None:
    with page(path, width=390, height=844) as p:
        p.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert p.run("document.documentElement.scrollWidth") == 390
        assert p.run("window.pwned") is None
        assert p.errors == []
        assert len(p.requests) == 1
        body = p.run("document.body.textContent")
        assert body.count(SCRIPT) > 6
        assert "broken.png" in body
        assert "folder" not in body
        assert p.run("[...document.images].filter(each => !each.complete || !each.naturalWidth).length") == 0
        assert p.run("document.querySelectorAll('.drawing').length") == 4
        p.click("#results table.values thead th:nth-child(3) button")
        first = p.run("document.querySelector('#results table.values tbody td:nth-child(3)').dataset.value")
        assert float(first) == pytest.approx(1)


def test_rows_are_the_summary_with_passes_the_best_first(summary: pd.DataFrame) -> None:
    heads, rows = score_table(summary, CORRELATION_TITLES, pd.DataFrame(columns=REASONS))
    assert [head.label for head in heads] == [*CORRELATION_TITLES.values(), DIFFERENCE, "passes"]
    by_name = {row.method: row.cells for row in rows}
    assert rows[0].method == "perfect"
    assert [row.method for row in rows][-1] == "opposite"
    row = summary.set_index(["method", "score"]).loc["unrelated", "spearman"]
    assert by_name["unrelated"][0].value == row["mean"]
    assert by_name["unrelated"][3].value == row["difference"]
    assert (by_name["unrelated"][4].text, by_name["unrelated"][4].value) == ("2 / 2", 4)
    assert by_name["perfect"][0].best
    assert by_name["mean attention (baseline)"][3].value is None
    assert not any(cell.best for cell in by_name["reliability"])
    assert by_name["opposite"][0].fewer == "1 of 2 images"


def test_areas_rank_deletion_from_the_lowest_and_have_only_rows_with_curves(summary: pd.DataFrame) -> None:
    heads, rows = score_table(summary, AREA_TITLES, pd.DataFrame(columns=REASONS))
    assert [head.direction for head in heads] == ["higher", "higher", "lower", "higher", "lower"]
    assert {"reliability", "first order product (baseline)"}.isdisjoint({row.method for row in rows})
    deletions = {row.method: row.cells[2] for row in rows}
    lowest = min(cell.value for cell in deletions.values() if cell.value is not None)
    assert {cell.value for cell in deletions.values() if cell.best} == {lowest}


def test_numbers_failures_and_citations_are_on_the_page(path: Path, summary: pd.DataFrame) -> None:
    text = path.read_text(encoding="utf-8")
    assert "undefined &lt;script&gt;" in text
    assert "The effects cost 160 forward passes per image" in text
    assert "Each row costs 6 forward passes per image" in text
    assert "baniecki2025explaining" in text
    assert "jo2025gmar" in text
    [saved] = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]*)"', text)
    assert len(pd.read_csv(io.BytesIO(base64.b64decode(saved)))) == len(summary)
    assert render(study(), summary, f"vit {SCRIPT}", CONTENT) == text


def test_models_without_curves_have_a_page_without_their_table() -> None:
    record = record_of(0, noise=0.3)
    reason = {"second-order insertion and deletion": "no token is left"}
    bare = PairStudy({"a.png": replace(record, curves={}, failures=reason)})
    text = render(bare, summarize_pairs(bare.records, PASSES), "vit", CONTENT)
    assert "<h2>Second-order" not in text
    assert "no token is left" in text
    assert Outline(text).open == []
