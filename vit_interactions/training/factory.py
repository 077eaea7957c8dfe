"""The parts of a training run, made as its settings say."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from vit_interactions.models.adaptive_window import AdaptiveWindowViT
from vit_interactions.models.winft import WindowFreeTransformer
from vit_interactions.training.classifiers import create_classifier, load_classifier
from vit_interactions.training.data.datasets import Datasets, open_datasets
from vit_interactions.training.data.loaders import (
    EvaluationLoader,
    TrainingLoader,
    batch_size_per_process,
    training_transform,
)
from vit_interactions.training.data.unreadable import TransformedImages
from vit_interactions.training.data.window_store import WindowStore
from vit_interactions.training.data.windowed_dataset import WindowedDataset
from vit_interactions.training.settings import EvaluationSettings, Settings, TrainingSettings
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.processes import Process


def create_datasets(settings: TrainingSettings) -> Datasets:
    """Open the pictures."""
    return open_datasets(
        settings.data,
        kind=settings.dataset,
        training=settings.train_split,
        evaluation=settings.val_split,
        classes=settings.num_classes,
        input_key=settings.input_key,
        target_key=settings.target_key,
    )


def input_config(model: nn.Module, settings: Settings) -> dict[str, Any]:
    """Tell how a model wants its images: timm's `resolve_data_config`, with the size that is asked for."""
    config: dict[str, Any] = resolve_data_config({"img_size": settings.img_size}, model=model)
    return config


def model_options(settings: Settings) -> dict[str, Any]:
    """Return the options of a model that decide what it computes, those that are given."""
    options = {"img_size": settings.img_size, "window_fill": settings.window_fill}
    return {name: value for name, value in options.items() if value is not None}


def create_student(
    settings: TrainingSettings, classes: int, process: Process, *, weights: bool = True
) -> tuple[nn.Module, list[str]]:
    """Create the model to train, on the process's device, with notes for the user.

    Args:
        settings: of the training.
        classes: how many there are.
        process: this one.
        weights: whether the weights to start from are needed.

    Raises:
        ValueError: windows that the model has no use for, or a teacher that it lacks.
    """
    student, notes = create_classifier(
        settings.model,
        classes,
        pretrained=settings.pretrained and weights,
        checkpoint=settings.initial_checkpoint if weights else None,
        drop_path_rate=settings.drop_path or None,
        **model_options(settings),
    )
    _check_size(student, settings)
    _check_use_of_teacher(student, settings, settings.window_targets)
    return student.to(process.device), notes


def create_trained_model(settings: EvaluationSettings, process: Process) -> nn.Module:
    """Create the model to evaluate, on the process's device, with its teacher where it needs one."""
    model = load_classifier(settings.model, settings.checkpoint, **model_options(settings))
    _check_size(model, settings)
    _check_use_of_teacher(model, settings)
    if isinstance(model, AdaptiveWindowViT):
        model.set_teacher(create_teacher(settings, input_config(model, settings), process))
    return model.to(process.device)


def _check_size(model: nn.Module, settings: Settings) -> None:
    embedding: Any = getattr(model, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if settings.img_size is None or patch is None or getattr(embedding, "dynamic_img_pad", False):
        return
    if any(settings.img_size % side for side in patch):
        raise ValueError(
            f"`img_size` must be a multiple of the model's patches of {patch[0]} x {patch[1]} pixels, but got "
            f"{settings.img_size}."
        )


def _check_use_of_teacher(model: nn.Module, settings: Settings, targets: str = "none") -> None:
    name = type(model).__name__
    if isinstance(model, AdaptiveWindowViT):
        if settings.teacher is None:
            raise ValueError(f"`model` {name} needs a `teacher`, which gives it the windows of each batch.")
        if targets != "none":
            raise ValueError(
                f"`window_targets` must be none for {name}, which sees by its teacher's windows and finds none of its "
                f"own, but got {targets!r}."
            )
    elif targets != "none" and not isinstance(model, WindowFreeTransformer):
        raise ValueError(f"`window_targets` must be none for {name}, which finds no windows, but got {targets!r}.")
    elif targets != "online" and settings.teacher is not None:
        raise ValueError(
            f"`teacher` must be left out here: {name} asks none; a model awd_vit_* or `window_targets` online do."
        )


class Renormalized(nn.Module):
    """A model that gets images normalised for another one."""

    factor: Tensor
    offset: Tensor

    def __init__(self, model: nn.Module, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Take the model, and `mean` and `std` of each channel that are given and wanted."""
        super().__init__()
        self.model = model
        given_mean, given_std, mean, std = (
            torch.tensor(config[name], device="cpu").view(-1, 1, 1)
            for config in (given, wanted)
            for name in ("mean", "std")
        )
        self.register_buffer("factor", given_std / std)
        self.register_buffer("offset", (given_mean - mean) / std)

    def forward(self, images: Tensor) -> Tensor:
        """Give the model the images as it knows them."""
        result: Tensor = self.model(images * self.factor + self.offset)
        return result


def create_teacher(settings: Settings, config: Mapping[str, Any], process: Process) -> WindowTeacher | None:
    """Create the teacher, which gets the student's images, of `config`; None where there is none."""
    if settings.teacher is None:
        return None
    size = tuple(config["input_size"][-2:])
    try:
        model = load_classifier(settings.teacher, settings.teacher_checkpoint, img_size=size)
    except ValueError as error:
        raise ValueError(f"`teacher` must be a plain ViT of timm, got {settings.teacher}: {error}") from error
    wanted = input_config(model, settings)
    if any(tuple(config[name]) != tuple(wanted[name]) for name in ("mean", "std")):
        model = Renormalized(model, config, wanted)
    return WindowTeacher(model.to(process.device), settings.alpha, settings.beta)


def create_training_loader(
    student: nn.Module, sources: Datasets, settings: TrainingSettings, config: Mapping[str, Any], process: Process
) -> TrainingLoader:
    """Make the batches to train a student on, with the windows of a store where there is one."""
    transform = training_transform(settings, config)
    if settings.window_store is None:
        images: Any = sources.training
        if isinstance(images, IterableDataset):
            images.transform = transform  # type: ignore[attr-defined]
        else:
            images = TransformedImages(images, transform)
        return TrainingLoader(images, settings, config, process)
    store = WindowStore(settings.window_store)
    _check_store(store, student, settings)
    pictures = WindowedDataset(sources.training, store, transform)
    return TrainingLoader(pictures, settings, config, process, pictures.collate)


def _check_store(store: WindowStore, student: nn.Module, settings: TrainingSettings) -> None:
    made = store.manifest
    if (made.alpha, made.beta) != (settings.alpha, settings.beta):
        raise ValueError(
            f"`alpha` and `beta` must be those of the store, {made.alpha:g} and {made.beta:g}, but got "
            f"{settings.alpha:g} and {settings.beta:g}."
        )
    grid: Any = student.patch_embed.grid_size  # type: ignore[union-attr]
    if tuple(made.grid) != tuple(grid):
        raise ValueError(
            f"`window_store` must be of the model's grid of {grid[0]} x {grid[1]} patches, but {store.folder} is of "
            f"{made.grid[0]} x {made.grid[1]}."
        )


def create_evaluation_loader(
    sources: Datasets, settings: TrainingSettings, config: Mapping[str, Any], process: Process
) -> EvaluationLoader | None:
    """Make the batches to evaluate on; None where there are no pictures for it."""
    if sources.evaluation is None:
        return None
    batch = batch_size_per_process(settings, process.world)
    return EvaluationLoader(sources.evaluation, config, process, batch_size=batch, workers=settings.workers)
