"""A made-up comparison with known numbers and hostile names, for tests of figures and reports."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import nn

from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.attention import TokenLayout
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.manifest import ListedImage
from vit_interactions.compare.records import Record
from vit_interactions.figures import Placement
from vit_interactions.images.boxes import ObjectBox
from vit_interactions.loading.predictions import Prediction

ROWS, COLS = 4, 6

SIZES = {"a": (480, 800), "b": (1000, 320), "c": (90, 90)}  # (width, height)

# The input is 32 x 48 pixels of the image at scale 10, centered by hand; "c" was padded.
PLACES = {
    "a": Placement(32, 48, 0, 240, 10, 10),
    "b": Placement(32, 48, 260, 0, 10, 10),
    "c": Placement(32, 48, -15, 5, 2.5, 2.5),
}

LAYOUT = TokenLayout(prefix=1, rows=ROWS, cols=COLS, readout="token", extent=(32, 48))

BOXES: dict[str, tuple[ObjectBox, ...]] = {"a": (ObjectBox(120.0, 200.0, 360.0, 600.0, 3),), "b": (), "c": ()}

SCRIPT = "<script>window.pwned = 1</script>"

IMAGE = "<img src=x onerror='window.pwned = 1'>"

NAMES = {
    "a": f"{SCRIPT} {IMAGE}.jpg",
    "b": "\"'` onload=alert(1) {{ 7 * 7 }} $x_1^2$ \u202egpj.\x00\udc80" + "very_long_name_" * 20,
    "c": "</style></script><svg onload='window.pwned = 1'>\n&amp;",
}

METHODS = ["gmar", "attention_rollout", "random_map", "responsive_field_size"]

MEANS = {
    "insertion": (
        "higher",
        {"gmar": 0.7, "attention_rollout": 0.4, "random_map": 0.5, "responsive_field_size": 0.1},
    ),
    "deletion": ("lower", {"gmar": 0.7, "attention_rollout": 0.4, "random_map": 0.5}),
    "sparsity": ("none", {"gmar": -1.5, "attention_rollout": 2000.0, "random_map": 0.00001}),
}


class Compared:
    """The part of `Results` that figures and reports read."""

    folder = Path("compared")
    unfinished = 0

    def __init__(
        self, models: tuple[str, ...] = ("vit",), keys: str = "abc", methods: list[str] = METHODS
    ) -> None:
        self.models = list(models)
        self.methods = methods
        self.metrics = list(MEANS)
        self.images = [
            ListedImage(key, NAMES[key], Path(f"{key}.jpg"), BOXES[key], size=SIZES[key], sha256="0" * 64)
            for key in keys
        ]
        self.directions = {name: direction for name, (direction, _) in MEANS.items()} | {"seconds": "lower"}
        self.settings: dict[str, Any] = {
            "alpha": 0.1,
            "target": SCRIPT,
            "methods": {name: {"source": SCRIPT, "library": "vit_interactions"} for name in methods},
            "metrics": {name: {"direction": self.directions[name], "source": IMAGE} for name in MEANS},
        }
        self.versions = {"torch": "2", "<b>": IMAGE}
        self.model_facts = {model: {"device": IMAGE, "weights": "0af3", "trained": {}} for model in self.models}
        self.missing: Mapping[str, tuple[str, ...]] = {}

    def table(self) -> pd.DataFrame:
        """Return values within 0.1 of their means."""
        rows = [
            (model, image.key, method, metric, mean + 0.1 * (number - (len(self.images) - 1) / 2))
            for model in self.models
            for number, image in enumerate(self.images)
            for metric, (_, means) in MEANS.items()
            for method, mean in means.items()
            if method in self.methods
        ]
        return pd.DataFrame(rows, columns=["model", "image", "method", "metric", "value"]).astype({"value": float})

    def failures(self) -> pd.DataFrame:
        rows = [
            (self.models[0], key, "responsive_field_size", "deletion", f"undefined {SCRIPT}", "ValueError")
            for key in NAMES
        ]
        return pd.DataFrame(rows, columns=["model", "image", "method", "metric", "reason", "error"])

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        rows = [
            (model, method, metric, mean, mean - 0.1, mean + 0.1, len(self.images), direction)
            for model in self.models
            for metric, (direction, means) in MEANS.items()
            for method, mean in means.items()
            if method in self.methods
        ]
        columns = ["model", "method", "metric", "mean", "low", "high", "images", "direction"]
        return pd.DataFrame(rows, columns=columns)

    def notes(self) -> list[str]:
        return [f"{self.models[0]}: at alpha 0.1 the windows hold all of {SCRIPT}"]

    def agreement(self, model: str) -> pd.DataFrame:
        values = np.array([[1, 0.2, 0, 0.9], [0.2, 1, 0, 0.1], [0, 0, 1, np.nan], [0.9, 0.1, np.nan, 1]])
        count = len(self.methods)
        return pd.DataFrame(values[:count, :count], index=self.methods, columns=self.methods)

    def maps(self, model: str, key: str) -> dict[str, np.ndarray[Any, Any]]:
        """Return maps that rise from patch to patch; the rollout's has both signs, one is constant."""
        rising = np.arange(ROWS * COLS, dtype=np.float64).reshape(ROWS, COLS)
        maps = {
            "gmar": rising,
            "attention_rollout": rising - 12,
            "random_map": np.random.default_rng(0).random((ROWS, COLS)),
            "responsive_field_size": np.ones((ROWS, COLS)),
        }
        return {name: maps[name] for name in self.methods if name not in self.missing.get(key, ())}

    def curves(self, model: str, metric: str) -> dict[str, np.ndarray[Any, Any]]:
        if metric != "insertion":
            return {}
        at = np.linspace(0, 1, 11)
        return {name: np.stack([at, at ** (1 + number)], 1) for number, name in enumerate(self.methods)}

    def records(self, model: str, keys: Iterable[str] | None = None) -> Iterator[tuple[str, Record]]:
        for key in [image.key for image in self.images] if keys is None else keys:
            predicted = Prediction(3, f"{SCRIPT}, cat", 0.87)
            explained = Prediction(7, None, 0.04) if key == "b" else predicted
            place = key if key in PLACES else "a"
            yield (
                key,
                Record({}, SIZES[place], predicted, explained, LAYOUT, PLACES[place], maps=self.maps(model, key)),
            )

    def score_name(self, model: str) -> str:
        return "probability of the class"

    def image(self, key: str) -> Image.Image:
        return Image.linear_gradient("L").resize(SIZES[key]).convert("RGB")


def make_model() -> nn.Module:
    """Build a ViT whose maps differ."""
    return sharp_vit(img_size=64)


def scores(comparison: Comparison) -> pd.DataFrame:
    """Return the table without costs, which vary from run to run."""
    table = comparison.table()
    return table[~table["metric"].isin(list(COSTS))].reset_index(drop=True)
