"""The completeness error by hand, for perfect and random maps, and for methods that are complete or not."""

import pytest
import torch
from vit_interactions_adapters.captum_methods import CaptumGradientShap, CaptumIntegratedGradients

import vit_interactions as vi
from tests.helpers.families import tiny
from tests.helpers.planted import (
    GRID,
    PATCH,
    STRENGTH,
    planted_case,
    planted_map,
    random_map,
    tiny_case,
)
from vit_interactions.metrics import METRICS
from vit_interactions.metrics.completeness_error import completeness_error

METRIC = METRICS["completeness_error"]


def test_the_error_by_hand() -> None:
    assert completeness_error(2.0, 1.0, -3.0) == 0.5
    assert completeness_error(-2.0, -1.0, 1.0) == 0.0
    with pytest.raises(ValueError, match="the same score"):
        completeness_error(1.0, 2.0, 2.0)


def test_perfect_and_random_maps_of_the_planted_patch() -> None:
    """The planted logit is 4 for the image; for the mean color, an input of 0 in all channels, it is 0."""
    case = planted_case(complete=True)
    perfect = planted_map(STRENGTH)[0].double()
    assert METRIC.measure(case, perfect).value == pytest.approx(0, abs=1e-12)
    assert METRIC.measure(case, 1.5 * perfect).value == pytest.approx(0.5)
    elsewhere = torch.zeros(GRID, dtype=torch.float64)
    elsewhere[PATCH[1], PATCH[0]] = STRENGTH
    assert METRIC.measure(case, elsewhere).value == pytest.approx(0, abs=1e-12)  # only the sum matters
    for seed in range(5):
        values = random_map(GRID, seed)
        expected = abs(float(values.sum()) - STRENGTH) / STRENGTH
        assert METRIC.measure(case, values).value == pytest.approx(expected)


def test_integrated_gradients_become_complete_with_more_steps() -> None:
    case = tiny_case(complete=True)
    errors = []
    for steps in (8, 32, 128):
        method = CaptumIntegratedGradients(case.model, n_steps=steps)
        errors.append(METRIC.measure(case, method.patch_map(case.inputs, case.target)[0]).value)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


def test_methods_know_whether_they_are_complete() -> None:
    model = tiny("vit_tiny_patch16_224", img_size=64)
    assert CaptumIntegratedGradients(model).complete
    assert CaptumGradientShap(model).complete
    assert not CaptumIntegratedGradients(model, baselines=1.0).complete
    assert not CaptumGradientShap(model, stdevs=0.1).complete
    assert not vi.GMAR(model).complete
    with pytest.raises(ValueError, match="not defined: the method does not claim"):
        METRIC.measure(planted_case(), random_map(GRID, 0))


def test_compare_measures_complete_methods_and_names_the_others() -> None:
    from PIL import Image

    model = tiny("vit_tiny_patch16_224", img_size=64)
    methods = {"ig": lambda model: CaptumIntegratedGradients(model, n_steps=20), "gmar": vi.GMAR}
    comparison = vi.compare([Image.effect_noise((64, 64), 60)], model, methods, ["completeness_error"])
    table = comparison.table().query("metric == 'completeness_error'")
    assert table["method"].tolist() == ["ig"]
    assert table["value"].item() < 0.05
    failures = comparison.failures()
    assert failures["method"].tolist() == ["gmar"]
    assert failures["reason"].item().startswith("not defined: the method does not claim")
