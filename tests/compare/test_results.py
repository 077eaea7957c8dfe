"""Differences and agreement of methods."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

import vit_interactions as vi
from tests.helpers.comparing import FIRST, METHODS, value
from vit_interactions.compare.summary import bootstrap_intervals


def test_differences_are_paired_by_image(model: nn.Module, image_files: list[Path]) -> None:
    comparison = vi.compare(image_files, model, METHODS, [FIRST])
    found = comparison.against("random_map")
    assert set(found["method"]) == set(METHODS[:-1])
    rows = found.set_index(["method", "metric"])
    for method in METHODS[:-1]:
        differences = [
            value(comparison, path.stem, method, "first") - value(comparison, path.stem, "random_map", "first")
            for path in image_files
        ]
        row = rows.loc[(method, "first")]
        assert row["mean"] == pytest.approx(np.mean(differences))
        low, high = bootstrap_intervals(np.array(differences)[:, None])
        assert (row["low"], row["high"]) == (pytest.approx(low[0]), pytest.approx(high[0]))
        assert row["images"] == 3
    with pytest.raises(ValueError, match=r"`method` must be one of raw_attention, .* got 'gradcam'"):
        comparison.against("gradcam")


def test_agreement_is_the_mean_of_the_images(model: nn.Module, image_files: list[Path]) -> None:
    from scipy.stats import spearmanr

    comparison = vi.compare(image_files, model, METHODS, [])
    found = comparison.agreement("VisionTransformer")
    assert list(found.index) == list(found.columns) == METHODS
    pairs = [comparison.maps("VisionTransformer", path.stem) for path in image_files]
    expected = np.mean(
        [spearmanr(maps["gmar"].ravel(), maps["raw_attention"].ravel()).statistic for maps in pairs]
    )
    assert found.loc["gmar", "raw_attention"] == pytest.approx(expected)
    assert found.loc["gmar", "gmar"] == pytest.approx(1)
