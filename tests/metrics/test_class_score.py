"""Tests of metrics for heads without softmax: one logit, several labels, a regression value, and built-in links."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.planted import PATCH, SIZE, planted_image, planted_map, planted_model
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.report.figures import curves_figure
from vit_interactions.compare.report.page import report
from vit_interactions.functional.scores import Output
from vit_interactions.loading.predictions import prediction_text
from vit_interactions.metrics import METRICS, Case, deletion, insertion
from vit_interactions.metrics.class_score import class_score

LAYOUT = TokenLayout(prefix=1, rows=4, cols=4, readout="token", extent=(SIZE, SIZE))
# Of the metrics that look at scores, those whose masks are made of whole patches.
SCORED = ["insertion", "deletion", "abpc", "token_insertion", "token_deletion", "road", "infidelity"]
CONFIDENCE = ["average_drop", "average_increase", "average_gain"]


def head(*rows: tuple[float, float]) -> nn.Module:
    """Build the planted model with outputs a * red + b for each (a, b); red is 1 if the red patch is shown."""
    model: Any = planted_model()
    model.head = nn.Linear(6, len(rows))
    model.num_classes = len(rows)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[:, 0] = 17 * torch.tensor([a for a, _ in rows])
        model.head.bias.copy_(torch.tensor([b for _, b in rows]))
    return model.eval()  # type: ignore[no-any-return]


def case(model: nn.Module, target: int = 0, output: Output | None = None) -> Case:
    model = model.double()
    image = planted_image().double()
    return Case(model, image, target, LAYOUT, (0.5,) * 3, (0.25,) * 3, output=output)


def sigmoid(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).sigmoid())


def softmax(*values: float) -> list[float]:
    found: list[float] = torch.tensor(values, dtype=torch.float64).softmax(0).tolist()
    return found


class After(nn.Module):
    """The model's output, changed by a function."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.model(images))


BINARY, LABELS = head((4.0, -1.0)), head((1.0, 0.0), (4.0, -1.0), (-2.0, 0.5))
WITH, WITHOUT = 3.0, -1.0  # what the second label, and the one of BINARY, gives with and without the red patch
# Model, target, what is stated, and the score with and without the red patch.
HEADS: dict[str, tuple[nn.Module, int, Output | None, float, float]] = {
    "one logit": (BINARY, 0, None, sigmoid(WITH), sigmoid(WITHOUT)),
    "one number per image": (After(BINARY, lambda x: x[:, 0]), 0, None, sigmoid(WITH), sigmoid(WITHOUT)),
    "regression": (BINARY, 0, "value", WITH, WITHOUT),
    "one sigmoid": (After(BINARY, Tensor.sigmoid), 0, None, sigmoid(WITH), sigmoid(WITHOUT)),
    "softmax": (LABELS, 1, None, softmax(1, 3, -1.5)[1], softmax(0, -1, 0.5)[1]),
    "labels": (LABELS, 1, "sigmoid", sigmoid(WITH), sigmoid(WITHOUT)),
    "values": (LABELS, 2, "value", -1.5, 0.5),
    "ends in softmax": (
        nn.Sequential(LABELS, nn.Softmax(-1)),
        1,
        None,
        softmax(1, 3, -1.5)[1],
        softmax(0, -1, 0.5)[1],
    ),
    "ends in sigmoid": (nn.Sequential(LABELS, nn.Sigmoid()), 1, None, sigmoid(WITH), sigmoid(WITHOUT)),
    "hard sigmoid, stated": (After(LABELS, nn.functional.hardsigmoid), 1, "probabilities", 1.0, 1 / 3),
}


@pytest.mark.parametrize("name", HEADS)
def test_curves_by_hand(name: str) -> None:
    """The first patch of the map is the red one: its step is the only one that changes the score."""
    model, target, output, high, low = HEADS[name]
    given, found = case(model, target, output), planted_map()[0].double()
    curve = insertion("mean", steps=16).measure(given, found)
    assert curve.value == pytest.approx(high - (high - low) / 32, abs=1e-9)
    assert curve.curve is not None
    assert curve.curve[:, 1].tolist() == pytest.approx([low] + [high] * 16, abs=1e-9)
    removed = deletion("mean", steps=16).measure(given, found).value
    assert removed == pytest.approx(low + (high - low) / 32, abs=1e-9)
    assert METRICS["abpc"].measure(given, found).value == pytest.approx((high - low) * 15 / 16, abs=1e-9)
    hidden = torch.ones(4, 4, dtype=torch.bool)
    hidden[PATCH] = False
    tokens = METRICS["token_deletion"].measure(given, found)
    assert tokens.curve is not None
    assert float(tokens.curve[0, 1]) == pytest.approx(high, abs=1e-9)
    if output != "value":
        drop = METRICS["average_drop"].measure(given, 1 - found).value  # all but the red patch
        assert drop > 0 if high > low else drop == 0


@pytest.mark.parametrize("metric", SCORED + CONFIDENCE)
@pytest.mark.parametrize(
    ("twin", "link", "stated"),
    [
        ("softmax", nn.Softmax(-1), None),
        ("labels", nn.Sigmoid(), "sigmoid"),
        ("binary", nn.Sigmoid(), None),
    ],
)
def test_a_model_that_ends_in_its_link_equals_the_model_with_logits(
    metric: str, twin: str, link: nn.Module, stated: Output | None
) -> None:
    model, target = (BINARY, 0) if twin == "binary" else (LABELS, 1)
    found = torch.rand(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = METRICS[metric].measure(case(model, target, stated), found)
    linked = METRICS[metric].measure(case(nn.Sequential(model, link), target), found)
    assert linked.value == pytest.approx(logits.value, abs=1e-6)
    if logits.curve is not None:
        torch.testing.assert_close(linked.curve, logits.curve, rtol=0, atol=1e-6)


def test_links_give_different_scores() -> None:
    found = planted_map()[0].double()
    values = {
        output: insertion("mean").measure(case(LABELS, 1, output), found).value  # type: ignore[arg-type]
        for output in ("softmax", "sigmoid", "value")
    }
    assert len({round(value, 3) for value in values.values()}) == 3


@pytest.mark.parametrize("metric", CONFIDENCE)
def test_confidence_metrics_reject_regression_values(metric: str) -> None:
    with pytest.raises(ValueError, match=f"^{metric} needs the probability of a class, .* is a value"):
        METRICS[metric].measure(case(BINARY, 0, "value"), planted_map()[0].double())


def test_an_ambiguous_output_must_be_given() -> None:
    hard = After(LABELS, nn.functional.hardsigmoid)
    for metric in SCORED + CONFIDENCE:
        with pytest.raises(ValueError, match="`output` must be given for this model: its outputs lie in"):
            METRICS[metric].measure(case(hard, 1), planted_map()[0].double())
    with pytest.raises(ValueError, match="`output` must be one of"):
        case(hard, 1, "logits")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 'probabilities' for values from"):
        class_score(case(LABELS, 1, "probabilities"), planted_image().double())


def test_unsupported_outputs_and_unknown_targets_raise() -> None:
    wrong = case(After(LABELS, lambda x: {"logits": x}), 1, "softmax")
    with pytest.raises(ValueError, match="got a dict with 'logits' for 1 image"):
        class_score(wrong, wrong.inputs)
    with pytest.raises(ValueError, match=r"got shape \(3,\) for 1 image"):
        class_score(case(After(LABELS, Tensor.squeeze), 1, "softmax"), wrong.inputs)
    with pytest.raises(IndexError, match="1 classes"):
        class_score(case(BINARY, 1), wrong.inputs)


# Whole comparisons


@pytest.fixture
def image() -> Image.Image:
    red = np.zeros((SIZE, SIZE, 3), np.uint8) + 128
    red[16:32, 32:48] = (255, 128, 128)
    return Image.fromarray(red)


def compared(model: nn.Module, image: Image.Image, output: Output | None = None, **options: Any) -> Comparison:
    metrics = ["insertion", "average_drop"]
    return vi.compare(
        [image], {"vit": model.float()}, ["random_map", "input_x_gradient"], metrics, output=output, **options
    )


def test_a_comparison_reports_the_kind_of_scores(image: Image.Image, tmp_path: Path) -> None:
    words = {
        "sigmoid": "class 0, 95%",
        "probabilities": "class 0, 95%",
        "value": "output 0 = ",
    }
    for output, model, stated in (
        ("sigmoid", BINARY, None),
        ("probabilities", nn.Sequential(BINARY, nn.Sigmoid()), None),
        ("value", BINARY, "value"),
    ):
        comparison = compared(model, image, stated)  # type: ignore[arg-type]
        record = comparison.record("vit", "image-1")
        assert record.prediction is not None
        assert record.prediction.output == output
        assert prediction_text(record.prediction).startswith(words[output].split("9")[0])
        assert ("%" in prediction_text(record.prediction)) == (output != "value")
        assert comparison.outputs("vit") == {output}
        assert comparison.settings["output"] == stated
        figure = curves_figure(comparison, "vit", "insertion")
        assert figure.axes[0].get_ylabel() == (
            "the model's value" if output == "value" else "probability of the class"
        )
        assert ("value, not a probability" in " ".join(comparison.notes())) == (output == "value")
        assert ("give `output`" in " ".join(comparison.notes())) == (stated is None)
        failures = comparison.failures()
        assert set(failures["metric"]) == ({"average_drop"} if output == "value" else set())
        text = report(comparison, tmp_path / "report.html").read_text()
        assert ("the model&#39;s value" in text or "value, not a probability" in text) == (output == "value")


def test_a_wrapped_vit_is_scored(image: Image.Image) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = LABELS

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.vit(images)
            return logits

    around, plain = (compared(model, image) for model in (Around(), LABELS))
    assert around.failures().empty

    def insertion_of(comparison: Comparison) -> list[float]:
        return list(comparison.table().query("metric == 'insertion'")["value"])

    assert insertion_of(around) == insertion_of(plain)


def test_unsupported_outputs_keep_the_maps_that_need_no_score(image: Image.Image) -> None:
    comparison = compared(After(LABELS, lambda x: (x, None)), image)
    assert set(comparison.maps("vit", "image-1")) == {"random_map"}
    reasons = comparison.failures().set_index(["method", "metric"])["reason"]
    assert "its output is neither (batch, classes) nor (batch,)" in reasons["random_map", "insertion"]


def test_an_ambiguous_output_fails_per_metric(image: Image.Image) -> None:
    hard = After(LABELS, lambda x: (x / 12 + 0.5).clamp(0, 1))
    comparison = compared(hard, image)
    assert set(comparison.maps("vit", "image-1")) == {"random_map", "input_x_gradient"}
    assert comparison.failures()["reason"].str.startswith("`output` must be given").all()
    assert prediction_text(comparison.record("vit", "image-1").prediction).startswith("class 1, output ")
    assert compared(hard, image, "probabilities").failures().empty


def test_a_comparison_resumes_only_with_the_same_output(image: Image.Image, tmp_path: Path) -> None:
    compared(BINARY, image, "value", out=tmp_path / "out")
    with pytest.raises(ValueError, match='output was "value", now is "sigmoid"'):
        compared(BINARY, image, "sigmoid", out=tmp_path / "out", resume=True)
    assert compared(BINARY, image, "value", out=tmp_path / "out", resume=True).outputs("vit") == {"value"}
    with pytest.raises(ValueError, match="`output` must be one of"):
        compared(BINARY, image, "logits")  # type: ignore[arg-type]
