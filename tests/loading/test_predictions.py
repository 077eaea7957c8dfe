"""Predictions with the link function of the model's head: inferred, read from a configuration, or given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn

from tests.helpers.command_line import run
from vit_interactions.explain.registry import default_methods
from vit_interactions.explain.settings import Settings
from vit_interactions.figures import prepare
from vit_interactions.functional.scores import Output
from vit_interactions.gallery.explanation import explain_image
from vit_interactions.loading.predictions import (
    Prediction,
    find_output,
    has_classes,
    last_operation,
    model_output,
    predict,
)

IMAGE = torch.zeros(1, 3, 160, 160)


def head(*outputs: float) -> nn.Module:
    """Return a timm ViT with these outputs for every image."""
    model: Any = timm.create_model("test_vit", num_classes=len(outputs)).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor(outputs))
    return model  # type: ignore[no-any-return]


class After(nn.Module):
    """Another model's output, changed by a function."""

    def __init__(self, model: nn.Module, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.model(images))


def classifier(*outputs: float, **config: Any) -> nn.Module:
    """Return a transformers ViT with these outputs."""
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    settings = hf.ViTConfig(image_size=160, patch_size=32, num_labels=len(outputs), **size, **config)
    model = hf.ViTForImageClassification(settings).eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor(outputs))
    return model


def normalized(outputs: Tensor) -> Tensor:
    """Compute a softmax that is not an autograd operation of that name."""
    return outputs.exp() / outputs.exp().sum(-1, keepdim=True)


LOGITS = head(3.0, -1.0, 0.5)
SMALL = head(0.2, 0.7, 0.3)  # logits that could be probabilities

KINDS: dict[str, tuple[nn.Module, Output | None]] = {
    "logits": (LOGITS, "softmax"),
    "one logit": (head(3.0), "sigmoid"),
    "one number per image": (After(head(-2.0), lambda x: x[:, 0]), "sigmoid"),
    "softmax": (nn.Sequential(LOGITS, nn.Softmax(-1)), "probabilities"),
    "softmax by hand": (After(LOGITS, normalized), "probabilities"),
    "log-softmax": (nn.Sequential(LOGITS, nn.LogSoftmax(-1)), "softmax"),
    "a binary model's two probabilities": (
        After(head(0.3), lambda x: torch.cat([x.sigmoid(), 1 - x.sigmoid()], 1)),
        "probabilities",
    ),
    "sigmoids": (nn.Sequential(LOGITS, nn.Sigmoid()), "probabilities"),
    "one sigmoid": (After(head(0.3), lambda x: x.sigmoid().squeeze(1)), "probabilities"),
    "mean of sigmoids": (After(LOGITS, lambda x: (x.sigmoid() + (x + 1).sigmoid()) / 2), "probabilities"),
    "small logits": (SMALL, "softmax"),
    "one small logit": (head(0.4), "sigmoid"),
    "no logits yet": (head(0.0, 0.0), "softmax"),
    "scaled logits": (After(SMALL, lambda x: x * 1.1 / 1.2), "softmax"),
    "distilled": (
        timm.create_model("deit_tiny_distilled_patch16_224", img_size=160, num_classes=3).eval(),
        "softmax",
    ),
    "hard sigmoids": (After(SMALL, nn.functional.hardsigmoid), None),
    "frozen numbers": (After(SMALL, Tensor.detach), None),
    "transformers": (classifier(0.2, 0.7), "softmax"),
    "transformers, one label": (classifier(0.2), "value"),
    "transformers, one label of its own": (
        classifier(0.2, problem_type="multi_label_classification"),
        "sigmoid",
    ),
    "transformers, multi-label": (classifier(3.0, -1.0, problem_type="multi_label_classification"), "sigmoid"),
    "transformers, regression": (classifier(0.25, 0.75, problem_type="regression"), "value"),
    "around transformers": (
        After(classifier(3.0, -1.0, problem_type="multi_label_classification"), lambda x: x.logits),
        "sigmoid",
    ),
    "a sigmoid around transformers": (
        After(classifier(3.0, -1.0, problem_type="multi_label_classification"), lambda x: x.logits.sigmoid()),
        "probabilities",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of_output_is_inferred(name: str) -> None:
    model, expected = KINDS[name]
    found = model_output(model, IMAGE)
    assert found is not None
    assert found.output == expected


def test_a_stated_output_takes_precedence() -> None:
    for output, score in (("sigmoid", 0.7310586), ("value", 1.0), ("probabilities", 1.0)):
        found = predict(head(1.0), IMAGE, named=False, output=output)  # type: ignore[arg-type]
        assert found == Prediction(0, None, pytest.approx(score), output)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`output` must be one of 'softmax'"):
        predict(LOGITS, IMAGE, named=False, output="logits")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 'softmax'"):
        predict(head(1.0), IMAGE, named=False, output="softmax")
    with pytest.raises(ValueError, match="for values from -1 to 3"):
        predict(LOGITS, IMAGE, named=False, output="probabilities")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (head(0.0, 2.0, 0.0), Prediction(1, None, 0.7869861, "softmax")),  # e² / (2 + e²)
        (head(-2.0), Prediction(0, None, 0.1192029, "sigmoid")),
        (nn.Sequential(head(0.0, 2.0, 0.0), nn.Softmax(-1)), Prediction(1, None, 0.7869861, "probabilities")),
        (nn.Sequential(head(0.0, 2.0, 0.0), nn.Sigmoid()), Prediction(1, None, 0.8807971, "probabilities")),
        (classifier(-3.25), Prediction(0, None, -3.25, "value")),
        (
            classifier(0.0, 2.0, problem_type="multi_label_classification"),
            Prediction(1, None, 0.8807971, "sigmoid"),
        ),
        (After(SMALL, nn.functional.hardsigmoid), Prediction(1, None, 0.7 / 6 + 0.5, None)),
    ],
)
def test_scores_by_hand(model: nn.Module, expected: Prediction) -> None:
    found = predict(model, IMAGE, named=False)
    assert found is not None
    assert (found.index, found.name, found.output) == (expected.index, None, expected.output)
    assert found.score == pytest.approx(expected.score, abs=1e-6)


def test_the_predicted_class_has_the_highest_output_even_if_probabilities_round_to_1() -> None:
    found = predict(head(45.0, 50.0), IMAGE, named=False, output="sigmoid")
    assert found == Prediction(1, None, 1.0, "sigmoid")


def test_predictions_are_formatted() -> None:
    assert str(Prediction(281, "tabby, tabby cat", 0.873)) == "tabby, 87%"
    assert str(Prediction(3, None, 0.5, "sigmoid")) == "class 3, 50%"
    assert str(Prediction(0, None, -3.251, "value")) == "output 0 = -3.25"
    assert str(Prediction(0, "age, years", 41.0, "value")) == "age = 41"
    assert str(Prediction(2, None, 0.5, None)) == "class 2, output 0.5"


def test_finding_the_last_operation_stores_and_changes_nothing() -> None:
    model = nn.Sequential(head(0.2, 0.3), nn.Dropout(0.5), nn.Sigmoid())  # in train mode
    kept: list[Tensor] = []

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.mark_non_differentiable()
            kept.append(x)
            return x.square()

    assert last_operation(model, IMAGE) == "Sigmoid"
    assert model.training
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert last_operation(After(model, Square.apply), IMAGE) == "Square"
    assert len(kept) == 1
    with torch.inference_mode():
        assert last_operation(model, IMAGE) == "Sigmoid"


class Around(nn.Module):
    """A wrapper around a ViT without attributes for the number of classes."""

    def __init__(self, vit: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.vit = vit
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.head = nn.Identity() if head is None else head

    def forward(self, images: Tensor) -> Any:
        return self.head(self.vit(images - self.mean))


def without_head() -> nn.Module:
    model: Any = timm.create_model("test_vit", num_classes=5)
    model.head = nn.Identity()
    return model  # type: ignore[no-any-return]


def with_own_head() -> nn.Module:
    model: Any = timm.create_model("test_vit", num_classes=0)
    model.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(model.num_features, 2))
    return model  # type: ignore[no-any-return]


def torchvision_vit(**options: Any) -> Any:
    from torchvision.models import VisionTransformer

    return VisionTransformer(64, 32, 1, 2, 32, 48, **options)


def torchvision_features() -> nn.Module:
    model = torchvision_vit()
    model.heads = nn.Identity()
    return model  # type: ignore[no-any-return]


class OwnDesign(nn.Module):
    """A ViT without attributes for its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)


def features() -> nn.Module:
    return timm.create_model("test_vit", num_classes=0)  # type: ignore[no-any-return]


CLASSIFY: dict[str, tuple[nn.Module, bool]] = {
    "timm": (head(0.0), True),
    "timm features": (features(), False),
    "timm, head taken away": (without_head(), False),
    "timm, own head": (with_own_head(), True),
    "around timm": (Around(head(0.0)), True),
    "around features": (Around(features()), False),
    "around features, own head": (Around(features(), nn.Linear(64, 2)), True),
    "around around": (Around(Around(features(), nn.Linear(64, 2))), True),
    "sequence": (nn.Sequential(features(), nn.Linear(64, 2)), True),
    "parallel": (nn.DataParallel(features()), False),
    "torchvision": (torchvision_vit(num_classes=3), True),
    "torchvision features": (torchvision_features(), False),
    "transformers": (classifier(0.0, 0.0), True),
    "transformers with teacher": (
        hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(num_hidden_layers=1, hidden_size=48)),
        True,
    ),
    "transformers tower": (hf.ViTModel(hf.ViTConfig(num_hidden_layers=1, hidden_size=48)), False),
    "own design": (OwnDesign(), True),
}


@pytest.mark.parametrize("name", CLASSIFY)
def test_classifiers_are_recognized(name: str) -> None:
    model, expected = CLASSIFY[name]
    assert has_classes(model) == expected
    assert ("gmar" in default_methods(model)) == expected


def test_unsupported_outputs_have_no_prediction() -> None:
    for change in (lambda x: {"logits": x}, lambda x: (x, None), lambda x: x[:, None], lambda x: x.squeeze()):
        assert predict(After(LOGITS, change), IMAGE, named=False) is None
    assert predict(features(), IMAGE, named=False) is None


NOISE = Image.effect_noise((180, 170), 60).convert("RGB")


def explained(model: nn.Module, output: Output | None = None) -> tuple[str, Any]:
    """Return the title of a map, and the prediction in the manifest."""
    settings = Settings("model", "hash", ("gmar",), output=output)
    found = explain_image(model, prepare(NOISE, model), settings)
    title = " ".join(found.figures["gmar"].get_suptitle().split())
    return title.split("(")[-1].rstrip(")"), found.facts["prediction"]


def test_titles_and_manifests_contain_the_probability_or_the_value() -> None:
    assert explained(head(-1.0)) == (
        "predicted: class 0, 27%",
        {"index": 0, "name": None, "score": pytest.approx(0.2689414), "output": "sigmoid"},
    )
    assert explained(head(-1.0), "value") == (
        "predicted: output 0 = -1",
        {"index": 0, "name": None, "score": -1.0, "output": "value"},
    )
    assert explained(head(0.0, 2.0))[0] == "predicted: class 1, 88%"
    assert explained(head(0.0, 2.0, 2.1), "sigmoid")[0] == "predicted: class 2, 89%"


def test_other_outputs_keep_methods_that_need_no_score() -> None:
    model = After(head(1.0, 2.0), lambda x: {"scores": x})
    settings = Settings("model", "hash", ("raw_attention", "gmar"))
    found = explain_image(model, prepare(NOISE, model), settings)
    assert found.facts["prediction"] is None
    assert list(found.arrays) == ["raw_attention"]
    assert "got a dict with 'scores' for 1 image." in found.facts["failed"]["gmar"]


def test_the_output_option_of_explain_and_explore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    NOISE.save(tmp_path / "noise.png")
    torch.save(head(0.0, 0.0, 3.0).state_dict(), tmp_path / "head.pt")
    model = ["--model", "test_vit", "--checkpoint", tmp_path / "head.pt"]
    out, page = tmp_path / "out", tmp_path / "page"

    def prediction(*options: str) -> Any:
        assert run("explain", tmp_path / "noise.png", *model, "--method", "gmar", "--out", out, *options) == 0
        return json.loads((out / "noise" / "manifest.json").read_text())["prediction"]

    assert prediction()["score"] == pytest.approx(20.0855 / 22.0855, abs=1e-4)
    assert prediction("--output", "sigmoid", "--resume")["score"] == pytest.approx(0.9525741)  # computed again
    assert run("explore", tmp_path / "noise.png", *model, "--out", page, "--output", "value") == 0
    assert "predicts <b>output 2 = 3</b>" in (page / "noise.html").read_text()
    capsys.readouterr()
    assert run("explain", tmp_path / "noise.png", *model, "--out", out, "--output", "logits") == 2
    assert "logits" in capsys.readouterr().err


def test_find_output_needs_no_second_pass_if_the_values_are_conclusive() -> None:
    passes: list[int] = []
    LOGITS.register_forward_hook(lambda *_: passes.append(1))
    assert find_output(LOGITS, IMAGE, torch.tensor([[3.0, -1.0, 0.5]])) == "softmax"
    assert find_output(LOGITS, IMAGE, torch.tensor([[0.5, 0.25, 0.25]])) == "probabilities"
    assert not passes


def test_checkpoint_with_1000_classes_gets_no_imagenet_names() -> None:
    model = timm.create_model("test_vit")
    images = torch.zeros(1, 3, 160, 160)
    nameless, named = (predict(model, images, named=named) for named in (False, True))
    assert nameless is not None
    assert named is not None
    assert nameless.name is None
    assert isinstance(named.name, str)
