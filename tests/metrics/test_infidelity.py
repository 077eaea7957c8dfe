"""Infidelity by its definition, and against Quantus."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.other_metrics import gray_case, options, quantus_score, to_pixels
from tests.helpers.planted import (
    GRID,
    ask_plainly,
    count_images,
    planted_case,
    planted_map,
    random_map,
    tiny_case,
)
from vit_interactions.metrics import METRICS, infidelity
from vit_interactions.metrics import infidelity as make_infidelity
from vit_interactions.metrics.infidelity import draw_subsets
from vit_interactions.metrics.pixel_scores import pixel_mask


def test_infidelity_by_the_definition() -> None:
    """The minimum over beta of the mean of (beta * sum of the map over removed patches - probability drop)²."""
    case, values = tiny_case(), random_map((3, 6), 3)
    removed = draw_subsets(12, (3, 6), 0.3, case.seed)
    full = ask_plainly(case, case.inputs[0])
    sums, falls = [], []
    for subset in removed:
        image = case.inputs[0].clone()
        for row, col in subset.nonzero().tolist():
            image[:, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 0.0
        falls.append(full - ask_plainly(case, image))
        sums.append(float(values[subset].sum()))
    beta = sum(a * b for a, b in zip(sums, falls, strict=True)) / sum(a * a for a in sums)
    expected = sum((beta * a - b) ** 2 for a, b in zip(sums, falls, strict=True)) / 12
    assert infidelity(fraction=0.3, samples=12).measure(case, values).value == pytest.approx(expected, rel=1e-9)
    for other in (beta * 0.9, beta * 1.1):
        assert expected < sum((other * a - b) ** 2 for a, b in zip(sums, falls, strict=True)) / 12


def test_a_map_and_its_negative_have_the_same_infidelity() -> None:
    """A documented consequence of captum's `normalize=True`: beta may be negative."""
    metric, values = METRICS["infidelity"], planted_map()[0].double()
    assert metric.measure(planted_case(), values).value == pytest.approx(0, abs=1e-15)
    assert metric.measure(planted_case(), -5 * values).value == pytest.approx(0, abs=1e-15)
    assert metric.measure(planted_case(), random_map(GRID, 0)).value > 0.01
    assert "negative" in str(infidelity.__doc__)


def test_subsets_have_one_size_and_are_uniform() -> None:
    subsets = draw_subsets(2000, (3, 4), 0.25, seed=5)
    assert (subsets.sum((1, 2)) == 3).all()
    assert torch.equal(subsets, draw_subsets(2000, (3, 4), 0.25, seed=5))
    assert float((subsets.double().mean(0) - 0.25).abs().max()) < 4 * (0.25 * 0.75 / 2000) ** 0.5
    assert draw_subsets(3, (1, 2), 0.0, seed=0).sum((1, 2)).tolist() == [1, 1, 1]
    assert draw_subsets(3, (1, 2), 1.0, seed=0).sum((1, 2)).tolist() == [1, 1, 1]


def test_methods_share_the_scores_of_infidelity() -> None:
    case = tiny_case()
    sizes = count_images(case.model)
    infidelity(samples=7).measure(case, random_map((3, 6), 1))
    asked = sum(sizes)
    assert asked <= 8
    infidelity(samples=7).measure(tiny_case(model=case.model, scores=case.scores), random_map((3, 6), 2))
    assert sum(sizes) == asked


def test_infidelity_equals_quantus_on_its_subsets_at_the_best_scale(
    quantus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantus gets the map at the best scale, and the subsets that it removes are given to ours."""
    case, values = gray_case(), random_map((4, 4), 6) - 0.3
    removed = torch.ones(16, 16).tril().bool().reshape(16, 4, 4)
    module = sys.modules[make_infidelity.__module__]
    monkeypatch.setattr(module, "draw_subsets", lambda *_: removed)
    ours = make_infidelity(samples=16).measure(case, values).value
    with torch.no_grad():
        left = case.inputs * ~pixel_mask(removed, case.layout, (64, 64)).unsqueeze(1)
        whole, *probabilities = case.model(torch.cat([case.inputs, left])).softmax(1)[:, case.target].tolist()
    falls = whole - np.array(probabilities)
    sums = (removed * values).sum((1, 2)).numpy()
    best = (falls * sums).sum() / (sums**2).sum()

    # Quantus treats the map as a gradient and multiplies it by the change of each pixel.
    gradient = to_pixels(best * values) / 256 / case.inputs.double().numpy()
    given = {"perturb_patch_sizes": [16], "perturb_baseline": 0.0, "n_perturb_samples": 1}
    [theirs] = quantus_score(quantus.Infidelity(**given, **options()), case, gradient)
    assert ours == pytest.approx(float(theirs), rel=1e-3)
    assert ours == pytest.approx(((best * sums - falls) ** 2).mean(), rel=1e-4)
    assert make_infidelity(samples=16).measure(case, 10 * values).value == pytest.approx(ours, rel=1e-6)
