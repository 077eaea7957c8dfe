"""Evaluate a trained classifier on pictures, alone or in many processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from vit_interactions.models.adaptive_window import AdaptiveWindowViT
from vit_interactions.models.trained_windows import other_windows, trained_windows
from vit_interactions.training.classification import Evaluation, evaluate
from vit_interactions.training.data.class_names import ClassNames, names_of_config, read_class_map
from vit_interactions.training.data.datasets import class_indices, open_split
from vit_interactions.training.data.loaders import Batch, EvaluationLoader
from vit_interactions.training.data.unreadable import notes_on
from vit_interactions.training.factory import create_trained_model, input_config
from vit_interactions.training.settings import EvaluationSettings
from vit_interactions.training.trainer import AMP_TYPES
from vit_interactions.utilities.processes import Process, end_process, start_process

Progress = Callable[[int, int, str], None]


def run_evaluation(
    settings: EvaluationSettings, progress: Progress | None = None, note: Callable[[str], None] | None = None
) -> Evaluation | None:
    """Create the model, open the pictures and evaluate.

    Args:
        settings: what to evaluate, and on what.
        progress: is told how many batches of how many are done.
        note: is told what the numbers may not be meant to be.

    Returns:
        The numbers; None in all processes but the first.

    Raises:
        ValueError: settings that do not fit the data or the model.
        OSError: files that are missing.
    """
    process = start_process(settings.device)
    try:
        model = create_trained_model(settings, process).eval()
        if note is not None and process.first and isinstance(model, AdaptiveWindowViT):
            for difference in other_windows(
                settings.model, trained_windows(settings.model), settings.alpha, settings.beta
            ):
                note(difference)
        pictures = _open(settings, model)
        config = input_config(model, settings)
        if note is not None and process.first:
            for text in notes_on(pictures):
                note(text)
        loader = EvaluationLoader(
            pictures, config, process, batch_size=settings.batch_size, workers=settings.workers
        )
        batches = _told(loader, progress) if progress is not None and process.first else iter(loader)
        result = evaluate(
            model, batches, unreadable=loader.unreadable, autocast=lambda: _autocast(settings, process)
        )
        return result if process.first else None
    finally:
        end_process()


def _open(settings: EvaluationSettings, model: nn.Module) -> Any:
    """Open the images, with their classes numbered as in the model."""
    count: Any = model.num_classes
    if count < 2:
        raise ValueError(f"`model` must classify into at least two classes, got {count}.")
    keys: dict[str, Any] = {"input_key": settings.input_key, "target_key": settings.target_key}
    classes = _class_names(settings, model, count)
    dataset = open_split(
        settings.data,
        settings.split,
        kind=settings.dataset,
        classes=classes,
        **{k: v for k, v in keys.items() if v},
    )
    index = class_indices(dataset)
    if index is not None and classes is None and len(index) != count:
        raise ValueError(
            f"`data` has {len(index)} classes, but the model classifies into {count}. Give the order of the model's "
            "classes as a `class_map`."
        )
    return dataset


def _class_names(settings: EvaluationSettings, model: nn.Module, count: int) -> ClassNames | None:
    """Return the model's classes as the user or its config names them; None: nobody does."""
    if settings.class_map is not None:
        return read_class_map(settings.class_map, count)
    names = getattr(model, "pretrained_cfg", {}).get("label_names")
    return names_of_config(names, count) if names else None


def _told(loader: Any, progress: Progress) -> Iterator[Batch]:
    for number, batch in enumerate(loader):
        progress(number, len(loader), "evaluating" if number == 0 else "")
        yield batch


def _autocast(settings: EvaluationSettings, process: Process) -> AbstractContextManager[Any]:
    kind = AMP_TYPES.get(settings.amp)
    return nullcontext() if kind is None else torch.autocast(process.device.type, kind)
