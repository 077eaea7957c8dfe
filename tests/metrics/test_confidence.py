"""Average drop, increase and gain against a loop over pixels and other libraries."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.other_metrics import softmax_targets, torchcam_scores
from tests.helpers.planted import (
    ask_plainly,
    random_map,
    tiny_case,
)
from vit_interactions.metrics import METRICS
from vit_interactions.metrics.confidence import drop, gain, increase


def test_confidence_of_the_masked_image_by_a_loop() -> None:
    case = tiny_case()
    values = random_map(case.layout.grid, 1) * 7 - 3
    scaled = ((values - values.min()) / (values.max() - values.min())).numpy()
    weights = np.zeros((48, 96))
    for y in range(48):
        for x in range(96):
            row, col = np.clip((y + 0.5) / 16 - 0.5, 0, 2), np.clip((x + 0.5) / 16 - 0.5, 0, 5)
            top, left = min(int(row), 1), min(int(col), 4)
            dy, dx = row - top, col - left
            upper = scaled[top, left] * (1 - dx) + scaled[top, left + 1] * dx
            lower = scaled[top + 1, left] * (1 - dx) + scaled[top + 1, left + 1] * dx
            weights[y, x] = upper * (1 - dy) + lower * dy
    full = ask_plainly(case, case.inputs[0])
    masked = ask_plainly(case, case.inputs[0] * torch.from_numpy(weights))
    assert abs(full - masked) > 1e-3
    for name, expected in (
        ("average_drop", max(0, full - masked) / full),
        ("average_increase", float(masked > full)),
        ("average_gain", max(0, masked - full) / (1 - full)),
    ):
        assert METRICS[name].measure(case, values).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["average_drop", "average_increase", "average_gain"])
def test_confidence_does_not_depend_on_the_maps_scale(name: str) -> None:
    values = random_map((3, 6), 4)
    score = METRICS[name].measure(tiny_case(), values).value
    assert METRICS[name].measure(tiny_case(), 1000 * values - 5).value == pytest.approx(score, abs=1e-9)


def test_a_probability_of_0_cannot_drop_and_one_of_1_cannot_gain() -> None:
    with pytest.raises(ValueError, match="probability 0 for the whole image"):
        drop(0.0, 0.5)
    with pytest.raises(ValueError, match="probability 1 for the whole image"):
        gain(1.0, 0.5)
    assert increase(1.0, 1.0) == 0.0


def test_drop_and_increase_equal_grad_cam() -> None:
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    case, values = tiny_case(), random_map((3, 6), 1)
    scaled = (values - values.min()) / (values.max() - values.min())
    pixels = nn.functional.interpolate(scaled[None, None], size=(48, 96), mode="bilinear")[0].numpy()
    with torch.no_grad():
        full = float(case.model(case.inputs).softmax(1)[0, case.target])
    theirs = float(metrics.DropInConfidence()(case.inputs, pixels, softmax_targets(case), case.model)[0])
    ours = METRICS["average_drop"].measure(case, values).value
    assert ours == pytest.approx(theirs / full, abs=1e-5)  # grad-cam does not divide by the probability
    increased = metrics.IncreaseInConfidence()(case.inputs, pixels, softmax_targets(case), case.model)[0]
    assert METRICS["average_increase"].measure(case, values).value == float(increased)


def test_drop_and_increase_equal_torchcam() -> None:
    for seed in range(5):
        case, values = tiny_case(), random_map((3, 6), seed)
        scaled = (values - values.min()) / (values.max() - values.min())
        theirs = torchcam_scores("ClassificationMetric", case, scaled)
        assert METRICS["average_drop"].measure(case, values).value == pytest.approx(theirs["avg_drop"], abs=1e-5)
        assert METRICS["average_increase"].measure(case, values).value == theirs["conf_increase"]


def test_the_probability_of_a_rare_class_can_drop_fully() -> None:
    class Rare(nn.Module):
        """A model whose class has probability 1e-7 for bright images and almost 0 for dim ones."""

        def forward(self, images: Tensor) -> Tensor:
            log = 40 * images.mean((1, 2, 3)) - 40 + np.log(1e-7)
            return torch.stack([torch.zeros_like(log), log], 1)

    case = dataclasses.replace(tiny_case(), model=Rare(), inputs=torch.ones(1, 3, 48, 96).double(), target=1)
    values = torch.zeros(3, 6).double()
    values[0, 0] = 1.0
    assert METRICS["average_drop"].measure(case, values).value == pytest.approx(1, abs=1e-3)
