"""Rank correlations with effects: a perfect, an opposite and an unrelated method, and reliability."""

from math import isnan
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import spearmanr

from tests.helpers.pair_studies import record_of
from vit_interactions.functional.pair_scores import pair_distances, rank_correlation
from vit_interactions.metrics.pair_curves import pair_areas
from vit_interactions.pair_study.summary import correlations, summarize_pairs, write_tables

PASSES = {"perfect": (1, 0), "opposite": (1, 1), "unrelated": (2, 2)}
RECORDS = {f"image{seed}.png": record_of(seed, noise=0.3) for seed in range(6)}


def test_perfect_opposite_and_unrelated() -> None:
    record = RECORDS["image0.png"]
    found = correlations(record)
    assert found["perfect"] == pytest.approx(dict.fromkeys(found["perfect"], 1.0))
    assert found["opposite"] == pytest.approx(dict.fromkeys(found["opposite"], -1.0))
    assert abs(found["unrelated"]["spearman"]) < 0.5
    strength = record.effects.differences.square().mean(1).sqrt()
    expected = float(spearmanr(record.values["unrelated"], strength).statistic)
    assert found["unrelated"]["spearman"] == pytest.approx(expected)
    covariates = [pair_distances(record.effects.pairs, record.grid), record.effects.first_order]
    for score, given in (("beyond_distance", covariates[:1]), ("beyond_first_order", covariates)):
        partial = rank_correlation(record.values["unrelated"], strength, given)
        assert found["unrelated"][score] == partial
        assert found["reliability"][score] == record.effects.reliability(given)


def test_what_is_partialled_out_has_no_partial_correlation() -> None:
    found = correlations(RECORDS["image0.png"])
    assert isnan(found["closeness"]["beyond_distance"])
    assert isnan(found["closeness"]["beyond_first_order"])
    assert not isnan(found["first_order_product"]["beyond_distance"])
    assert isnan(found["first_order_product"]["beyond_first_order"])


def test_means_intervals_differences_and_passes() -> None:
    summary = summarize_pairs(RECORDS, PASSES).set_index(["method", "score"])
    each = [correlations(record) for record in RECORDS.values()]
    row = summary.loc["unrelated", "spearman"]
    values = [image["unrelated"]["spearman"] for image in each]
    attention = [image["mean_attention"]["spearman"] for image in each]
    assert row["mean"] == pytest.approx(sum(values) / 6)
    assert row["low"] < row["mean"] < row["high"]
    assert row["images"] == 6
    assert row["difference"] == pytest.approx((sum(values) - sum(attention)) / 6)
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert (row["forwards"], row["backwards"]) == (2, 2)
    assert isnan(summary.loc["closeness", "beyond_distance"]["difference"])
    assert isnan(summary.loc["mean_attention", "beyond_distance"]["difference"])
    assert summary.loc["reliability", "spearman"]["forwards"] == 160
    assert summary.loc["perfect", "spearman"]["low"] == pytest.approx(1.0)
    assert set(summary["scoring_forwards"].xs("spearman", level="score")) == {160}


def test_areas_are_scores_with_differences_and_passes() -> None:
    summary = summarize_pairs(RECORDS, PASSES).set_index(["method", "score"])
    areas = [pair_areas(record.curves["unrelated"]) for record in RECORDS.values()]
    attention = [pair_areas(record.curves["mean_attention"]) for record in RECORDS.values()]
    for score in ("pair_insertion", "pair_deletion", "pair_area"):
        row = summary.loc["unrelated", score]
        assert row["mean"] == pytest.approx(sum(image[score] for image in areas) / 6)
        assert row["low"] < row["mean"] < row["high"]
        pairs = zip(areas, attention, strict=True)
        assert row["difference"] == pytest.approx(sum(own[score] - other[score] for own, other in pairs) / 6)
    assert summary.loc["unrelated", "pair_area"]["scoring_forwards"] == 2 * 3
    assert summary.loc["unrelated", "pair_deletion"]["scoring_forwards"] == 3
    assert summary.loc["reliability", "pair_area"]["images"] == 0
    assert summary.loc["first_order_product", "pair_area"]["images"] == 0


def test_tables_hold_every_pair(tmp_path: Path) -> None:
    summary = summarize_pairs(RECORDS, PASSES)
    write_tables(RECORDS, summary, tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "summary.csv"), summary, check_dtype=False)
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    assert len(pairs) == 6 * 30
    effects = RECORDS["image2.png"].effects
    own = pairs[pairs["image"] == "image2.png"]
    assert own[["first", "second"]].to_numpy().tolist() == effects.pairs.tolist()
    assert own["strength"].to_numpy() == pytest.approx(effects.strength.numpy())
    assert own["index"].to_numpy() == pytest.approx(effects.index.numpy())


def test_names_of_images_are_no_formulas_in_spreadsheets(tmp_path: Path) -> None:
    records = {"=1+1.png": RECORDS["image0.png"]}
    write_tables(records, summarize_pairs(records, PASSES), tmp_path)
    assert set(pd.read_csv(tmp_path / "pairs.csv")["image"]) == {"'=1+1.png"}
