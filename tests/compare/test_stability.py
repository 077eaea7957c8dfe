"""Rank stability by hand, for agreeing and opposite rankings, and in the report."""

import math
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import vit_interactions as vi
from tests.helpers.families import tiny
from vit_interactions.compare.plan import describe_metric
from vit_interactions.compare.report.page import render
from vit_interactions.compare.stability import metrics_by_replacement, rank_stability
from vit_interactions.metrics import METRICS, abpc, deletion, insertion

THREE = {"mean": "del", "blur": "del_blur", "tokens": "token_deletion"}


def described(*metrics: Any) -> dict[str, Any]:
    return {metric.name: describe_metric(metric) for metric in metrics}


def lower() -> dict[str, Any]:
    return described(deletion(name="del"), deletion("blur", name="del_blur"), METRICS["token_deletion"])


def table_of(values: dict[tuple[str, str, str], float], model: str = "vit") -> pd.DataFrame:
    """Make a table from (image, method, metric) -> value."""
    rows = [(model, *key, value) for key, value in values.items()]
    return pd.DataFrame(rows, columns=["model", "image", "method", "metric", "value"])


def test_only_metrics_that_differ_in_the_replacement_are_grouped() -> None:
    assert metrics_by_replacement(lower()) == [THREE]
    assert metrics_by_replacement(described(*METRICS.values())) == [
        {"blur": "insertion", "tokens": "token_insertion"},
        {"mean": "deletion", "tokens": "token_deletion"},
    ]
    assert metrics_by_replacement(described(abpc(), deletion("blur"), insertion("mean"))) == []
    assert metrics_by_replacement(described(deletion(), deletion("blur", steps=5, name="few"))) == []
    assert metrics_by_replacement({"own": {"direction": "none"}}) == []


def test_changes_and_correlations_by_hand() -> None:
    """Deletion, lower is better: in image 1 one winner of three differs, in image 2 none does."""
    orders = {("1", "del"): "abc", ("1", "del_blur"): "abc", ("1", "token_deletion"): "bac"}
    orders |= {("2", name): "cba" for name in THREE.values()}
    values = {
        (image, method, metric): rank / 10
        for (image, metric), order in orders.items()
        for rank, method in enumerate(order)
    }
    values |= {(image, "random_map", metric): -1.0 for image, metric in orders}  # not ranked
    values["3", "a", "del"] = 0.0  # an image without the other metrics does not count
    found = rank_stability(table_of(values), lower())
    assert len(found) == 1
    row = found.iloc[0]
    assert row["metrics"] == "del (mean), del_blur (blur), token_deletion (tokens)"
    # Mean ranks: 1, 1, 1 by the first two; 1.5, 0.5, 1 by the third.
    assert row["best"] == "a and b and c (mean), a and b and c (blur), b (tokens)"
    assert row["images"] == 2
    assert row["changes"] == pytest.approx(2 / 6)
    assert row["correlation"] == pytest.approx((1 + 0.5 + 0.5 + 3) / 6)


@pytest.mark.parametrize(("second", "changes", "correlation"), [("abc", 0.0, 1.0), ("cba", 1.0, -1.0)])
def test_same_and_opposite_rankings(second: str, changes: float, correlation: float) -> None:
    values = {
        ("1", method, metric): float(rank)
        for metric, order in (("del", "abc"), ("del_blur", second))
        for rank, method in enumerate(order)
    }
    found = rank_stability(table_of(values), described(deletion(name="del"), deletion("blur", name="del_blur")))
    assert found[["changes", "correlation"]].to_numpy().tolist() == [[changes, pytest.approx(correlation)]]


def test_ties_are_no_change_and_have_no_correlation() -> None:
    values = {("1", method, name): 0.5 for method in "ab" for name in THREE.values()}
    row = rank_stability(table_of(values), lower()).iloc[0]
    assert row["changes"] == 0.0
    assert math.isnan(row["correlation"])


def test_one_replacement_or_one_method_has_no_stability() -> None:
    values = {("1", "a", name): 0.5 for name in THREE.values()}
    assert rank_stability(table_of(values), lower()).empty
    assert rank_stability(table_of({}), lower()).empty
    values |= {("1", "b", "del"): 0.5}
    assert rank_stability(table_of(values), described(deletion(name="del"))).empty


def test_comparisons_and_reports_have_it_if_two_replacements_were_measured() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=64)
    metrics = [deletion(), deletion("zero", name="deletion_zero")]
    methods = ["gmar", "legrad", "random_map"]
    images = [Image.effect_noise((64, 64), 60) for _ in range(2)]
    comparison = vi.compare(images, model, methods, metrics)
    found = comparison.rank_stability()
    assert found["metrics"].tolist() == ["deletion (mean), deletion_zero (zero)"]
    text = render(comparison)
    assert "Rank stability" in text
    assert "deletion (mean), deletion_zero (zero)" in text
    assert "Rank stability" not in render(vi.compare(images[:1], model, methods, metrics[:1]))
