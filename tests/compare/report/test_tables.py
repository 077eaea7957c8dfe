"""Tests of the tables of a report: digits, best values, unranked methods, and failures by reason."""

import pandas as pd
import pytest

from tests.helpers.compared import METHODS, SCRIPT, Compared
from vit_interactions.compare.report.page import render
from vit_interactions.compare.report.tables import (
    Column,
    best_by_metric,
    columns,
    grouped_failures,
    model_tables,
    number,
    summary_rows,
)


def test_numbers_keep_three_digits_that_say_something() -> None:
    values = [0.12345, -0.5, 12.345, 123.45, 999.7, 1234567.8, 1.234e-5, 0.0, float("nan")]
    assert [number(value) for value in values] == [
        *("0.123", "−0.500", "12.3", "123", "1,000", "1,234,568", "1.23e−05", "0", "–"),
    ]


def test_the_table_says_which_is_best_how_good_the_others_are_and_why_some_are_missing() -> None:
    compared = Compared()
    heads = columns(compared.table(), compared.directions)
    assert [head.images for head in heads] == [3, 3, 3]
    rows = summary_rows(compared.summary(), METHODS, heads, compared.failures())
    cells = {row.method: row.cells for row in rows}
    assert [head.arrow for head in heads] == ["↑", "↓", ""]
    assert [row.method for row in rows if row.baseline] == ["random_map"]
    # By hand from MEANS: of 0.1 ... 0.7 upwards, and of 0.7 ... 0.4 downwards; the baseline is not ranked.
    assert [cells[name][0].good for name in METHODS] == pytest.approx([1, 0.5, None, 0])
    assert [cells[name][1].good for name in METHODS[:3]] == pytest.approx([0, 1, None])
    assert [[cell.best for cell in cells[name]] for name in METHODS[:3]] == [
        [True, False, False],
        [False, True, False],
        [False, False, False],
    ]
    assert [cells[name][2].good for name in METHODS] == [None] * 4
    assert cells["gmar"][0].interval == "0.600 – 0.800"
    assert cells["gmar"][0].note == ""
    missing = cells["responsive_field_size"][1]
    assert (missing.text, missing.value, missing.note) == ("–", None, f"undefined {SCRIPT}")
    found = best_by_metric(rows, heads)
    assert [(best.column.name, best.methods) for best in found] == [
        ("insertion", ("gmar",)),
        ("deletion", ("attention_rollout",)),
    ]
    assert found[0].baseline == cells["random_map"][0]
    assert not any(best.beaten for best in found)


@pytest.mark.parametrize(
    ("direction", "baseline", "beaten"),
    [("higher", 0.8, True), ("higher", 0.6, False), ("lower", 0.6, True), ("lower", 0.8, False)],
)
def test_no_method_is_better_if_the_baseline_is_ahead(direction: str, baseline: float, beaten: bool) -> None:
    frame = pd.DataFrame(
        [
            ("m", name, "iou", mean, mean, mean, 3, direction)
            for name, mean in (("gmar", 0.7), ("random_map", baseline))
        ],
        columns=list(Compared().summary()),
    )
    head = Column("iou", "IoU", direction, 3)
    rows = summary_rows(frame, ["gmar", "random_map"], [head], Compared().failures())
    [best] = best_by_metric(rows, [head])
    assert best.methods == ("gmar",)
    assert best.beaten == beaten


def test_models_are_side_by_side_metric_by_metric() -> None:
    compared = Compared(("vit", SCRIPT))
    summary = compared.summary()
    summary.loc[(summary["model"] == SCRIPT) & (summary["metric"] == "insertion"), "mean"] = [0.1, 0.9, 0.2, 0.3]
    tables = model_tables(summary, METHODS, compared.failures(), compared.directions)
    assert [about.name for about, _, _ in tables] == ["insertion", "deletion", "sparsity"]
    _, heads, rows = tables[0]
    assert [(head.name, head.direction, head.images) for head in heads] == [
        ("vit", "higher", 3),
        (SCRIPT, "higher", 3),
    ]
    given = summary[summary["metric"] == "insertion"].set_index(["model", "method"])["mean"]
    for row in rows:
        assert [cell.value for cell in row.cells] == [given["vit", row.method], given[SCRIPT, row.method]]
    best = [[row.method for row in rows if row.cells[place].best] for place in (0, 1)]
    candidates = [name for name in METHODS if name != "random_map"]
    assert best == [[max(candidates, key=lambda name: given[model, name])] for model in ("vit", SCRIPT)]
    # Why the first model has no value by one method, in its own column only.
    missing = {row.method: row.cells for row in tables[1][2]}["responsive_field_size"]
    assert missing[0].note == f"undefined {SCRIPT}"
    page = render(compared)  # type: ignore[arg-type]
    assert page.count("Models side by side") == 1
    assert SCRIPT not in page
    assert "Models side by side" not in render(Compared())  # type: ignore[arg-type]


def test_a_mean_over_fewer_images_is_not_ranked_with_the_others() -> None:
    compared = Compared()
    [head] = [head for head in columns(compared.table(), compared.directions) if head.name == "insertion"]
    summary = compared.summary()
    summary.loc[(summary["method"] == "gmar") & (summary["metric"] == "insertion"), "images"] = 2
    rows = {row.method: row.cells[0] for row in summary_rows(summary, METHODS, [head], compared.failures())}
    assert (rows["gmar"].good, rows["gmar"].best, rows["gmar"].note) == (None, False, "2 of 3 images")
    assert rows["attention_rollout"].best  # 0.4 is the highest of the others'
    assert rows["attention_rollout"].good == 1


def test_the_baseline_is_not_ranked_by_cost() -> None:
    rows = [
        ("m", name, "seconds", mean, mean, mean, 3, "lower") for name, mean in zip("abr", (1, 3, 0), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=list(Compared().summary()))
    frame["method"] = ["gmar", "attn_lrp", "random_map"]
    [head] = heads = [Column("seconds", "time, s", "lower", 3)]
    made = summary_rows(frame, list(frame["method"]), heads, Compared().failures())
    assert [row.cells[0].good for row in made] == [1, 0, None]
    assert [row.cells[0].best for row in made] == [True, False, False]
    assert head.cost
    assert best_by_metric(made, heads) == []


def test_failures_are_grouped_by_reason() -> None:
    rows = [
        *(("m", key, method, "iou", "x", "E") for key in "ab" for method in ("gmar", "legrad")),
        ("m", "a", "attn_lrp", "iou", "x", "E"),
        ("m", "a", "gmar", "", "y", "E"),
        ("m", "b", "", "", "z", "E"),
    ]
    frame = pd.DataFrame(rows, columns=["model", "image", "method", "metric", "reason", "error"])
    found = grouped_failures(frame, {"a": "A", "b": "B"})
    assert [(each.metric, each.reason, each.methods, each.images) for each in found] == [
        ("iou", "x", ("gmar", "legrad"), ("A", "B")),
        ("iou", "x", ("attn_lrp",), ("A",)),
        ("", "y", ("gmar",), ("A",)),
        ("", "z", (), ("B",)),
    ]
