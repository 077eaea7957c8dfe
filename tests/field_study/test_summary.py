"""Means, intervals and paired differences of values worked out by hand."""

import json
from math import isnan, nan
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.field_studies import values
from vit_interactions.field_study.measure import CLAIMS, CONTROLS
from vit_interactions.field_study.summary import summarize_claims, write_results


def row(table: pd.DataFrame, claim: str, control: str) -> pd.Series:
    (found,) = table[(table["claim"] == claim) & (table["control"] == control)].to_dict("records")
    return pd.Series(found)


def test_means_and_paired_differences() -> None:
    measured = []
    for number in range(20):
        image = values((0.1,), size_auc=float(number % 2))
        image[0.1, "other_boxes"]["size_auc"] = number % 2 - 0.125  # always 1/8 less, image by image
        image[0.1, "image_center"]["size_auc"] = nan if number else 0.5
        measured.append(image)
    table = summarize_claims(measured)
    assert len(table) == len(CLAIMS) * len(CONTROLS)
    real, other = row(table, "size_auc", "real"), row(table, "size_auc", "other_boxes")
    assert (real["mean"], real["images"]) == (0.5, 20)
    assert 0.2 < real["low"] < 0.4 < 0.6 < real["high"] < 0.8
    assert isnan(real["difference"])
    # Means vary much between images, their paired difference does not.
    assert other["mean"] == pytest.approx(0.375)
    assert (other["difference"], other["difference_low"], other["difference_high"]) == (0.125, 0.125, 0.125)
    center = row(table, "size_auc", "image_center")
    assert (center["mean"], center["images"], center["difference"]) == (
        0.5,
        1,
        -0.5,
    )  # of the first image, 0 - 0.5
    assert isnan(center["low"])
    assert isnan(center["difference_low"])


def test_files_have_the_same_numbers(tmp_path: Path) -> None:
    table = summarize_claims([values((0.1, 0.3)), values((0.1, 0.3), size_auc=nan)])
    write_results(table, tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv"), table)
    (first, *_), count = (records := json.loads((tmp_path / "results.json").read_text())["results"]), len(records)
    assert count == 2 * len(CLAIMS) * len(CONTROLS)
    assert first == {
        **{"alpha": 0.1, "claim": "smaller_inside", "control": "real", "mean": 0.25, "low": 0.25, "high": 0.25},
        **{"images": 2, "difference": None, "difference_low": None, "difference_high": None},
    }
