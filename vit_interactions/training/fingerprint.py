"""Fingerprint of a run's data, windows and model: a run is only resumed with the same."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from vit_interactions.training.data.datasets import Datasets
from vit_interactions.training.data.images import image_names
from vit_interactions.training.data.window_store import names_checksum, read_manifest
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.checksum import architecture_checksum, checksum

# Part of the fingerprint -> the error if it differs.
ERRORS = {
    "window_source": "`resume` must come with the teacher or window store that the run started with, got another.",
    "images": "`data` must be the images that the run started with, got other names.",
    "input": "`resume` must come with the model's input size, mean, std, crop and interpolation that the run started "
    "with, got {}.",
    "architecture": "`resume` must come with the model that the run started with, got other arguments or other code.",
}


def run_fingerprint(
    settings: TrainingSettings,
    datasets: Datasets,
    student: nn.Module,
    config: Mapping[str, Any],
    teacher: WindowTeacher | None,
) -> dict[str, str]:
    """Return a string for each part of `ERRORS`, equal if the part is the same."""
    return {
        "window_source": window_source(settings, teacher),
        "images": " ".join(map(image_names_checksum, (datasets.training, datasets.evaluation))),
        "input": json.dumps({**config}, sort_keys=True, default=str),
        "architecture": architecture_checksum(student),
    }


def check_fingerprint(before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raise ValueError for the first part of a fingerprint that differs."""
    for name, message in ERRORS.items():
        if before.get(name) != now[name]:
            raise ValueError(message.format(now[name]))


def window_source(settings: TrainingSettings, teacher: WindowTeacher | None) -> str:
    """Return the manifest of the window store or the checksums of the teacher; "" without windows."""
    if settings.window_store is not None:
        return json.dumps(asdict(read_manifest(settings.window_store)), sort_keys=True, default=str)
    return "" if teacher is None else f"{checksum(teacher.model)} {architecture_checksum(teacher.model)}"


def image_names_checksum(dataset: Any) -> str:
    """Compute the SHA-256 of a dataset's image names; "" if they cannot be listed without reading the images."""
    listing = getattr(dataset, "reader", None) or dataset
    return names_checksum(image_names(dataset)) if hasattr(listing, "samples") else ""
