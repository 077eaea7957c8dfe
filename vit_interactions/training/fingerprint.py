"""What a training run is made of beside its settings, so that it is resumed with the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from vit_interactions.training.data.datasets import Datasets
from vit_interactions.training.data.images import image_names
from vit_interactions.training.data.window_store import encode_names, read_manifest
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.checksum import architecture_checksum, checksum

# What the error says where a part differs.
DIFFERS = {
    "window_source": "`resume` needs the windows of the run's start, but the teacher or the window store is another.",
    "images": "`data` must hold the images of the run's start, but their names differ.",
    "input": "`resume` needs the model's input size, mean, std, crop and interpolation of the run's start, but got {}.",
    "architecture": "`resume` needs the model of the run's start, but got one of other arguments or other code.",
}


def run_fingerprint(
    settings: TrainingSettings,
    sources: Datasets,
    student: nn.Module,
    config: Mapping[str, Any],
    teacher: WindowTeacher | None,
) -> dict[str, str]:
    """Return the parts of `DIFFERS`, each as a text that is equal if the part is.

    Args:
        settings: of the training.
        sources: before their transforms are set.
        student: the model to train.
        config: of its input.
        teacher: of the windows; None where there is none.
    """
    return {
        "window_source": window_source(settings, teacher),
        "images": " ".join(map(image_names_checksum, (sources.training, sources.evaluation))),
        "input": json.dumps({**config}, sort_keys=True, default=str),
        "architecture": architecture_checksum(student),
    }


def check_fingerprint(before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raise ValueError where a run would be resumed with something else than it was started with."""
    for name, message in DIFFERS.items():
        if before.get(name) != now[name]:
            raise ValueError(message.format(now[name]))


def window_source(settings: TrainingSettings, teacher: WindowTeacher | None) -> str:
    """Tell apart the sources of a training's windows: the teacher, or the store's manifest; "" without windows."""
    if settings.window_store is not None:
        return json.dumps(asdict(read_manifest(settings.window_store)), sort_keys=True, default=str)
    return "" if teacher is None else f"{checksum(teacher.model)} {architecture_checksum(teacher.model)}"


def image_names_checksum(dataset: Any) -> str:
    """Compute the SHA-256 of the names of a dataset's images; "" where they cannot be abbreviate without reading them."""
    listing = getattr(dataset, "reader", None) or dataset
    if not hasattr(listing, "samples"):
        return ""
    return hashlib.sha256(encode_names(image_names(dataset))).hexdigest()
