"""Create the models, datasets and loaders for training or evaluation from settings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import IterableDataset
from torchvision.transforms import Normalize

from vit_interactions.explain.configured import configure
from vit_interactions.images.listing import find_images
from vit_interactions.loading.classifiers import create_classifier, load_classifier
from vit_interactions.models.adaptive_window import AdaptiveWindowViT
from vit_interactions.models.winft import WindowFreeTransformer
from vit_interactions.training.data.datasets import Datasets, open_datasets
from vit_interactions.training.data.images import image_name, read_sample
from vit_interactions.training.data.loaders import (
    EvaluationLoader,
    TrainingLoader,
    batch_size_per_process,
    training_transform,
)
from vit_interactions.training.data.unreadable import TransformedImages
from vit_interactions.training.data.window_store import WindowStore
from vit_interactions.training.data.windowed_dataset import WindowedDataset
from vit_interactions.training.explain_callback import METHODS, ExplainCallback, read_images
from vit_interactions.training.log import Writer
from vit_interactions.training.settings import BaseSettings, EvaluationSettings, TrainingSettings
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.processes import Process

EXPLAINED = 4  # images, unless the user chooses some


def create_datasets(settings: TrainingSettings) -> Datasets:
    """Open the training and evaluation splits."""
    return open_datasets(
        settings.data,
        kind=settings.dataset,
        training=settings.train_split,
        evaluation=settings.val_split,
        classes=settings.num_classes,
        input_key=settings.input_key,
        target_key=settings.target_key,
    )


def input_config(model: nn.Module, settings: BaseSettings) -> dict[str, Any]:
    """Return the model's input configuration, as timm's `resolve_data_config`, at the requested size."""
    config: dict[str, Any] = resolve_data_config({"img_size": settings.img_size}, model=model)
    return config


def model_options(settings: BaseSettings) -> dict[str, Any]:
    """Return the model options that are given."""
    options = {"img_size": settings.img_size, "window_fill": settings.window_fill}
    return {name: value for name, value in options.items() if value is not None}


def create_student(
    settings: TrainingSettings, classes: int, process: Process, *, weights: bool = True
) -> tuple[nn.Module, list[str]]:
    """Create the model to train on the process's device, with notes for the user; initial weights are optional.

    Raises:
        ValueError: window settings that do not fit the model, or a missing teacher.
    """
    student, notes = create_classifier(
        settings.model,
        classes,
        pretrained=settings.pretrained and weights,
        checkpoint=settings.initial_checkpoint if weights else None,
        drop_path_rate=settings.drop_path or None,
        **model_options(settings),
    )
    _check_model(student, settings, settings.window_targets)
    return student.to(process.device), notes


def create_trained_model(settings: EvaluationSettings, process: Process) -> nn.Module:
    """Create the model to evaluate on the process's device, with its teacher if it needs one."""
    model = load_classifier(settings.model, settings.checkpoint, **model_options(settings))
    _check_model(model, settings)
    if isinstance(model, AdaptiveWindowViT):
        model.set_teacher(create_teacher(settings, input_config(model, settings), process))
    return model.to(process.device)


def _check_model(model: nn.Module, settings: BaseSettings, targets: str = "none") -> None:
    """Raise ValueError for an input size, a teacher or window targets that do not fit the model."""
    name = type(model).__name__
    embedding: Any = getattr(model, "patch_embed", None)
    patch = None if getattr(embedding, "dynamic_img_pad", False) else getattr(embedding, "patch_size", None)
    if settings.img_size is not None and patch is not None and any(settings.img_size % side for side in patch):
        raise ValueError(
            f"`img_size` must be a multiple of the model's patches of {patch[0]} x {patch[1]} pixels, got "
            f"{settings.img_size}."
        )
    if isinstance(model, AdaptiveWindowViT):
        if settings.teacher is None:
            raise ValueError(f"`teacher` must be given for {name}, which gets its windows from it.")
        if targets != "none":
            raise ValueError(
                f"`window_targets` must be none for {name}, which learns no windows, got {targets!r}."
            )
    elif targets != "none" and not isinstance(model, WindowFreeTransformer):
        raise ValueError(f"`window_targets` must be none for {name}, which has no windows, got {targets!r}.")
    elif targets != "online" and settings.teacher is not None:
        raise ValueError(
            f"`teacher` must not be given for {name} here, got {settings.teacher}. It is for awd_vit_* models and for "
            "`window_targets` online."
        )


def create_teacher(settings: BaseSettings, config: Mapping[str, Any], process: Process) -> WindowTeacher | None:
    """Create the teacher, if any, for images with the student's input configuration."""
    if settings.teacher is None:
        return None
    size = tuple(config["input_size"][-2:])
    try:
        model = load_classifier(settings.teacher, settings.teacher_checkpoint, img_size=size)
    except ValueError as error:
        raise ValueError(f"`teacher` must be a plain timm ViT, got {settings.teacher}: {error}") from error
    wanted = input_config(model, settings)
    if any(tuple(config[name]) != tuple(wanted[name]) for name in ("mean", "std")):
        # The images come normalized for the student; one more step turns this into the teacher's normalization.
        mean, std, own_mean, own_std = (
            torch.tensor(each[name], device="cpu") for each in (config, wanted) for name in ("mean", "std")
        )
        renormalize = Normalize(((own_mean - mean) / std).tolist(), (own_std / std).tolist())
        model = nn.Sequential(renormalize, model)
    return WindowTeacher(
        model.to(process.device), settings.alpha, settings.beta, settings.window_coverage, settings.exclude_sinks
    )


def create_training_loader(
    student: nn.Module, datasets: Datasets, settings: TrainingSettings, config: Mapping[str, Any], process: Process
) -> TrainingLoader:
    """Create the loader of training batches, with windows if there is a window store."""
    transform = training_transform(settings, config)
    if settings.window_store is not None:
        store = WindowStore(settings.window_store)
        _check_store(store, student, settings)
        windowed = WindowedDataset(datasets.training, store, transform)
        return TrainingLoader(windowed, settings, config, process, windowed.collate)
    images: Any = datasets.training
    if isinstance(images, IterableDataset):
        images.transform = transform  # type: ignore[attr-defined]
    else:
        images = TransformedImages(images, transform)
    return TrainingLoader(images, settings, config, process)


def _check_store(store: WindowStore, student: nn.Module, settings: TrainingSettings) -> None:
    stored = store.manifest
    if (stored.alpha, stored.beta) != (settings.alpha, settings.beta):
        raise ValueError(
            f"`alpha` and `beta` must be those of the window store, {stored.alpha:g} and {stored.beta:g}, got "
            f"{settings.alpha:g} and {settings.beta:g}."
        )
    if stored.coverage != settings.window_coverage:
        raise ValueError(
            f"`window_coverage` must be that of the window store, {stored.coverage:g}, got "
            f"{settings.window_coverage:g}."
        )
    if stored.exclude_sinks != settings.exclude_sinks:
        raise ValueError(
            f"`exclude_sinks` must be that of the window store, {stored.exclude_sinks}, got {settings.exclude_sinks}."
        )
    grid: Any = student.patch_embed.grid_size  # type: ignore[union-attr]
    if tuple(stored.grid) != tuple(grid):
        raise ValueError(
            f"`window_store` must have the model's grid of {grid[0]} x {grid[1]} patches, got {stored.grid[0]} x "
            f"{stored.grid[1]} in {store.folder}."
        )


def create_evaluation_loader(
    datasets: Datasets, settings: TrainingSettings, config: Mapping[str, Any], process: Process
) -> EvaluationLoader | None:
    """Create the loader of evaluation batches; None without an evaluation split."""
    if datasets.evaluation is None:
        return None
    batch = batch_size_per_process(settings, process.world)
    return EvaluationLoader(datasets.evaluation, config, process, batch_size=batch, workers=settings.workers)


def explained_images(settings: TrainingSettings, datasets: Datasets, student: nn.Module) -> dict[str, Image.Image]:
    """Read the images to explain: the user's, or four spread evenly over the evaluation (or training) images.

    Raises:
        ValueError: a stream without images of the user, an unreadable image, or a method that does not exist.
        FileNotFoundError: an image that does not exist.
    """
    if settings.explain_every is None:
        return {}
    configure(settings.explain_method or METHODS, student)
    if settings.explain_images is not None:
        return read_images(find_images([settings.explain_images]))
    images: Any = datasets.training if datasets.evaluation is None else datasets.evaluation
    if isinstance(images, IterableDataset):
        raise ValueError(
            f"`explain_images` must be given for the stream {settings.dataset}, whose images have no numbers, got none."
        )
    count = min(EXPLAINED, len(images))
    chosen = [index * len(images) // count for index in range(count)]
    return read_images(
        {
            Path(image_name(images, index)).with_suffix("").as_posix(): read_sample(images, index)[0]
            for index in chosen
        }
    )


def create_callback(
    settings: TrainingSettings,
    images: Mapping[str, Image.Image],
    config: Mapping[str, Any],
    folder: Path,
    writers: Sequence[Writer],
    notify: Callable[[str], None],
) -> ExplainCallback:
    """Create the callback that explains images with the input configuration of the training."""
    return ExplainCallback(
        images,
        [folder, *writers],
        methods=settings.explain_method or METHODS,
        alpha=settings.alpha,
        beta=settings.beta,
        coverage=settings.window_coverage,
        exclude_sinks=settings.exclude_sinks,
        transform=create_transform(**config, is_training=False),
        notify=notify,
    )
