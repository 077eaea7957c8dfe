"""Sensitivity by its definition, and against Quantus."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.other_metrics import (
    explain_for_quantus,
    explaining,
    gray_case,
    options,
    quantus_score,
    to_pixels,
)
from tests.helpers.planted import (
    guessing,
    planted_case,
    planted_map,
    random_map,
    tiny_case,
)
from vit_interactions.metrics import METRICS, infidelity, sensitivity
from vit_interactions.metrics import sensitivity as make_sensitivity
from vit_interactions.metrics.rerun import rerun_method


def red_of_patches(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
    return inputs[:, 0].unfold(1, 16, 16).unfold(2, 16, 16).mean((-1, -2))


@pytest.mark.parametrize("samples", [1, 10, 20])
def test_sensitivity_by_the_definition(samples: int) -> None:
    case = tiny_case(explain=red_of_patches, seed=4)
    score = sensitivity(radius=0.5, samples=samples).measure(case, random_map((3, 6), 0)).value
    torch.manual_seed(4)
    moved, done = [], 0
    while done < samples:  # captum draws the noise of one chunk at a time
        count = min(16, samples - done)
        noise = torch.FloatTensor(count, 3, 48, 96).uniform_(-0.5, 0.5).double()
        moved += [red_of_patches(case.model, one.unsqueeze(0), 0)[0] for one in noise]
        done += count
    norm = red_of_patches(case.model, case.inputs, 0).norm()
    assert score == pytest.approx(max(float(one.norm() / norm) for one in moved), rel=1e-5)


def test_a_fixed_map_has_sensitivity_0_and_a_random_one_is_high() -> None:
    same = planted_case(explain=lambda model, inputs, target: planted_map().double().expand(len(inputs), -1, -1))
    assert METRICS["sensitivity"].measure(same, planted_map()[0]).value == 0.0
    assert METRICS["sensitivity"].measure(planted_case(explain=guessing), planted_map()[0]).value > 0.3


def test_sensitivity_runs_class_specific_gradient_methods() -> None:
    asked: list[int] = []

    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        asked.append(target)
        return vi.GMAR(model).patch_map(inputs, target)

    case = tiny_case(explain=explain)
    score = METRICS["sensitivity"].measure(case, random_map((3, 6), 0)).value
    assert 0 < score < 10
    assert set(asked) == {2}


def test_maps_of_the_rerun_method_are_validated() -> None:
    values = planted_map()[0]
    with pytest.raises(ValueError, match=r"`explain` must return maps of shape \(1, 4, 4\), got \(1, 3, 64, 64\)"):
        METRICS["sensitivity"].measure(planted_case(explain=lambda model, inputs, target: inputs), values)
    nothing = planted_case(explain=lambda model, inputs, target: torch.full((len(inputs), 4, 4), float("nan")))
    with pytest.raises(ValueError, match="the method returned NaN or infinite values when it was run again"):
        METRICS["randomization"].measure(nothing, values)
    with pytest.raises(ValueError, match="`radius` must be finite and > 0, got 0"):
        sensitivity(radius=0)
    with pytest.raises(ValueError, match="`samples` must be an int >= 1, got 0"):
        infidelity(samples=0)


def test_sensitivity_equals_quantus_with_the_same_noise(quantus: Any) -> None:
    case = explaining(gray_case())
    patch_map = rerun_method(case, case.model, case.inputs)[0]
    ours = make_sensitivity(radius=0.1, samples=10).measure(case, patch_map).value
    torch.manual_seed(5)
    noise = iter(torch.FloatTensor(10, 1, 64, 64).uniform_(-0.1, 0.1).flatten(1).numpy())

    def perturb(arr: np.ndarray[Any, Any], indices: Any, **_: Any) -> np.ndarray[Any, Any]:
        moved: np.ndarray[Any, Any] = arr + next(noise)
        return moved

    metric = quantus.MaxSensitivity(nr_samples=10, perturb_func=perturb, **options())
    theirs = quantus_score(metric, case, to_pixels(patch_map), explain_func=explain_for_quantus(case))[0]
    assert ours == pytest.approx(float(theirs), rel=1e-4)
    assert ours > 1e-3
