"""ABPC for every rank of a planted patch, and against Quantus."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.other_metrics import gray_case, options, quantus_score, to_pixels
from tests.helpers.planted import (
    GRID,
    PATCH,
    STRENGTH,
    planted_case,
    random_map,
    sigmoid,
)
from vit_interactions.metrics import abpc, deletion
from vit_interactions.metrics.patch_map import relevance_ranks
from vit_interactions.metrics.pixel_scores import pixel_scores


def test_areas_for_every_rank_of_the_planted_patch() -> None:
    """With the red patch at rank r, the score drops at step r + 1; averaged over ranks, LeRF equals MoRF."""
    high, low = sigmoid(STRENGTH), 0.5
    differences = []
    for rank in range(16):
        case = planted_case()
        values = torch.arange(15, -1, -1, dtype=torch.float64).roll(PATCH[0] * 4 + PATCH[1] - rank).reshape(GRID)
        assert int(relevance_ranks(values, 0)[PATCH]) == rank
        score = deletion(steps=16).measure(case, values).value
        assert score == pytest.approx(low + (high - low) * (rank + 0.5) / 16)
        differences.append(abpc(steps=16).measure(case, values).value)
    assert sum(differences) == pytest.approx(0, abs=1e-9)
    assert differences == sorted(differences, reverse=True)


def test_abpc_equals_quantus_region_perturbation_in_both_orders(quantus: Any) -> None:
    case, values = gray_case(), random_map((4, 4), 5)

    def falls(order: str) -> np.ndarray[Any, Any]:
        metric = quantus.RegionPerturbation(
            patch_size=16, order=order, regions_evaluation=16, perturb_baseline=0.0, **options()
        )
        return np.asarray(quantus_score(metric, case, to_pixels(values))[0])

    curve = abpc(steps=16).measure(case, values).curve
    assert curve is not None
    # Its curves are probability drops, so their difference has the opposite sign.
    np.testing.assert_allclose(curve[1:, 1].numpy(), falls("morf") - falls("lerf"), atol=1e-6)
    assert float(curve[:, 1].abs().max()) > 1e-3


def test_it_is_the_symmetric_relevance_gain() -> None:
    """SRG = LIF - MIF, the areas of removing the least and the most influential patches first, by a slow loop."""
    case, values = gray_case(), random_map((4, 4), 5)
    order = values.flatten().argsort(descending=True).tolist()
    areas = {}
    for name, removal in (("most first", order), ("least first", order[::-1])):
        shown, scores = torch.ones(16, dtype=torch.bool), []
        for patch in [None, *removal]:
            if patch is not None:
                shown[patch] = False
            scores.append(float(pixel_scores(case, shown.view(1, 4, 4).clone(), "mean")))
        areas[name] = sum((a + b) / 2 for a, b in pairwise(scores)) / 16
    gain = areas["least first"] - areas["most first"]
    assert abpc(steps=16).measure(case, values).value == pytest.approx(gain, abs=1e-12)
