"""Means and their intervals against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from vit_interactions.compare import summary
from vit_interactions.compare.summary import DRAWS, bootstrap_intervals, summarize, with_costs
from vit_interactions.explain.configured import parse_method


def test_two_values_have_three_means() -> None:
    # Drawn means: 0 with 1/4, 1/2 with 1/2, 1 with 1/4.
    values = np.array([[0.0], [1.0]])
    for confidence, expected in ((0.95, (0.0, 1.0)), (0.4, (0.5, 0.5))):
        assert tuple(float(end[0]) for end in bootstrap_intervals(values, confidence)) == expected


def test_many_values_have_the_interval_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1000, 1))
    low, high = bootstrap_intervals(values)
    error = values.std() / 1000**0.5
    assert float(low[0]) == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert float(high[0]) == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_missing_values_are_left_out() -> None:
    nan = float("nan")
    values = np.array([[0.0, nan, nan], [1.0, nan, 7.0], [nan, 4.0, nan], [nan, 4.0, nan]])
    low, high = bootstrap_intervals(values)
    assert low[:2].tolist() == [0.0, 4.0]
    assert high[:2].tolist() == [1.0, 4.0]
    assert np.isnan([low[2], high[2]]).all()  # one value has no spread


def test_draws_are_those_of_a_slow_loop_and_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(7, 2))
    random = np.random.default_rng(5)
    means = [values[random.integers(0, 7, 7)].mean(0) for _ in range(DRAWS)]
    expected = np.quantile(means, [0.05, 0.95], axis=0)
    for at_once in (2**22, 50):
        monkeypatch.setattr(summary, "AT_ONCE", at_once)
        np.testing.assert_allclose(bootstrap_intervals(values, 0.9, seed=5), expected, rtol=1e-12)


def test_a_table_is_averaged_in_its_order() -> None:
    rows = [
        ("m", image, method, metric, value)
        for image, first in (("b", 1.0), ("a", 3.0))
        for method, value in (("z", first), ("y", 5.0))
        for metric in ("q", "p")
        if (image, method) != ("a", "y")
    ]
    table = pd.DataFrame(rows, columns=["model", "image", "method", "metric", "value"])
    found = summarize(table, {"q": "lower", "p": "none"})
    assert found[["method", "metric", "mean", "images", "direction"]].to_numpy().tolist() == [
        ["z", "q", 2.0, 2, "lower"],
        ["z", "p", 2.0, 2, "none"],
        ["y", "q", 5.0, 1, "lower"],
        ["y", "p", 5.0, 1, "none"],
    ]
    assert list(summarize(table[:0], {}).columns) == list(found.columns)


def test_costs_are_beside_every_mean() -> None:
    means = {
        ("gmar", "deletion"): 0.5,
        ("gmar", "forwards"): 3.25,
        ("l1", "forwards"): 3.0,
        ("own", "deletion"): 0.1,
    }
    rows = [("vit", method, metric, mean) for (method, metric), mean in means.items()]
    rows += [("deit", "gmar", "forwards", 4.0)]
    table = pd.DataFrame(rows, columns=["model", "method", "metric", "mean"])
    methods = {
        name: parse_method(text).describe() for name, text in {"gmar": "gmar", "l1": "gmar:norm=l1"}.items()
    }
    found = with_costs(table, {**methods, "own": {"method": None, "forwards": 7, "options": {}}})
    assert found["cost"].to_list()[:3] + found["cost"].to_list()[4:] == [3.25, 3.25, 3.0, 4.0]
    assert np.isnan(found["cost"][3])  # no map, no time
    assert found["forward_passes"].fillna(-1).to_list() == [1, 1, -1, -1, 1]  # other options may take other passes
    assert found["backward_passes"].fillna(-1).to_list() == [1, 1, -1, -1, 1]
