"""Rank correlations of maps against a loop, SciPy and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.helpers.planted import (
    random_map,
    slow_spearman,
)
from vit_interactions.metrics import agreement


@pytest.mark.parametrize("seed", range(4))
def test_agreement_equals_a_loop_and_scipy(seed: int) -> None:
    first, second = (random_map((5, 7), seed) * 8).round(), random_map((5, 7), seed + 50)
    maps = {"first": first, "second": second, "exp": first.exp(), "negative": -first}
    row = agreement({name: values.numpy() for name, values in maps.items()}).loc["first"]
    assert row["second"] == pytest.approx(slow_spearman(first, second), abs=1e-12)
    assert row["second"] == pytest.approx(float(spearmanr(first.flatten(), second.flatten()).statistic))
    assert row["exp"] == pytest.approx(1)
    assert row["negative"] == pytest.approx(-1)


def test_agreement_is_symmetric_and_nan_for_maps_without_ranks() -> None:
    one, other = random_map((3, 4), 0).numpy(), random_map((3, 4), 1).numpy()
    broken = one.copy()
    broken[0, 0] = np.nan
    table = agreement({"one": one, "negative": -one, "other": other, "flat": np.ones((3, 4)), "broken": broken})
    assert list(table.columns) == list(table.index) == ["one", "negative", "other", "flat", "broken"]
    assert table.loc["one", "one"] == pytest.approx(1)
    assert table.loc["one", "negative"] == pytest.approx(-1)
    expected = slow_spearman(torch.from_numpy(one), torch.from_numpy(other))
    assert table.loc["one", "other"] == table.loc["other", "one"] == pytest.approx(expected)
    assert table.loc["negative", "other"] == pytest.approx(-expected)
    assert table[["flat", "broken"]].isna().all().all()
    assert table.loc[["flat", "broken"]].isna().all().all()
    assert agreement({}).empty
    with pytest.raises(ValueError, match="`maps` must have one shape, got"):
        agreement({"one": one, "other": np.ones((2, 2))})


def test_agreement_equals_torchmetrics() -> None:
    rank_correlation = pytest.importorskip("torchmetrics.functional.regression").spearman_corrcoef
    for seed in range(10):
        one, other = ((random_map((4, 4), seed + place) * 7).round() for place in (0, 50))  # with ties
        expected = rank_correlation(one.flatten(), other.flatten())
        found = agreement({"one": one.numpy(), "other": other.numpy()}).loc["one", "other"]
        assert found == pytest.approx(float(expected), abs=1e-5)
