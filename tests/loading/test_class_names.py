"""Figure titles and the manifest use class names, if the model or timm has them."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as hf
from PIL import Image
from torch import nn

from tests.helpers.command_line import run
from vit_interactions.explain.settings import Settings
from vit_interactions.figures import prepare
from vit_interactions.gallery.explanation import explain_image
from vit_interactions.images import read_image
from vit_interactions.loading.predictions import class_name, predict

NAMES = {0: "tabby, tabby cat", 1: "LABEL_7", 2: "$\\frac{1}$ <b>", 3: "LABEL_3"}


def classifier(names: dict[int, str] | None = None, winner: int = 0) -> nn.Module:
    """Return a small transformers ViT with four classes that always predicts the same one."""
    labels: dict[str, Any] = {"num_labels": 4}
    if names is not None:
        labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = hf.ViTForImageClassification(hf.ViTConfig(image_size=64, patch_size=16, **size, **labels)).eval()
    with torch.no_grad():
        model.classifier.bias[winner] = 50.0
    return model


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.effect_noise((80, 60), 80).convert("RGB").save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def title(model: nn.Module, path: Path, target: int | str = "pred", checkpoint: str | None = "a hash") -> str:
    """Return the title of one figure of a class-specific method."""
    settings = Settings("model", checkpoint, ("gmar",), target=target)
    figure = explain_image(model, prepare(read_image(path), model), settings).figures["gmar"]
    figure.canvas.draw()  # a title that is set as mathematics would raise here
    return " ".join(figure.get_suptitle().split())


def with_preprocessing(model: nn.Module) -> nn.Module:
    """State the size of the input in timm's expected, as the adapters do."""
    model.pretrained_cfg = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    return model


@pytest.mark.parametrize(
    ("winner", "expected"),
    [(0, "tabby"), (1, "LABEL_7"), (2, "$\\frac{1}$ <b>"), (3, "class 3")],
)
def test_transformers_models_name_their_classes(winner: int, expected: str, image: Path) -> None:
    model = with_preprocessing(classifier(NAMES, winner))
    assert title(model, image) == f"gmar (predicted: {expected}, 100%)"
    assert title(model, image, target=winner) == f"gmar, {expected} (predicted: {expected}, 100%)"
    output = predict(model, torch.zeros(1, 3, 64, 64), named=False)
    assert output is not None
    assert output.index == winner
    assert output.name == (None if winner == 3 else NAMES[winner])  # all names of the class


def test_generic_names_are_ignored(image: Path) -> None:
    model = with_preprocessing(classifier(winner=2))
    assert title(model, image, target=-1) == "gmar, class -1 (predicted: class 2, 100%)"
    assert [class_name(model, index, named=True) for index in range(-1, 5)] == [None] * 6


def test_imagenet_names_are_used_only_for_timms_pretrained_weights(image: Path) -> None:
    model = timm.create_model("test_vit").eval()
    assert class_name(model, 281, named=True) == "tabby, tabby cat"
    assert class_name(model, 281, named=False) is None  # 1,000 custom classes
    assert [class_name(model, index, named=True) for index in (-1, 1000)] == [None, None]
    assert class_name(timm.create_model("test_vit", num_classes=200), 3, named=True) is None
    assert title(model, image, target=281, checkpoint=None).startswith("gmar, tabby (predicted: ")
    assert title(model, image, target=281).startswith("gmar, class 281 (predicted: class ")


def test_the_command_line_uses_the_names_of_a_saved_model(image: Path, tmp_path: Path) -> None:
    classifier(NAMES).save_pretrained(tmp_path / "saved")
    out = tmp_path / "out"
    options = ["--model", f"hf:{tmp_path / 'saved'}", "--method", "gmar", "--out", out]
    assert run("explain", image, *options) == 0
    prediction = json.loads((out / "noise" / "manifest.json").read_text())["prediction"]
    assert (prediction["index"], prediction["name"]) == (0, "tabby, tabby cat")


def test_names_of_the_models_own_configuration() -> None:
    mini = timm.create_model("vit_mini_patch8_112")
    assert [class_name(mini, index, named=True) for index in (0, 9)] == ["tench", "parachute"]
    assert class_name(mini, 0, named=False) is None
    assert class_name(timm.create_model("vit_mini_patch8_112", num_classes=7), 0, named=True) is None
