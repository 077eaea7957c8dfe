"""Open the splits of a dataset of any kind that timm reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import create_dataset

from vit_interactions.images import read_image
from vit_interactions.loading.class_maps import ClassNames
from vit_interactions.training.data.folders import ImageFolder, split_folder
from vit_interactions.training.data.images import image_names

# Kinds of datasets; timm takes any other name for an image folder.
KINDS = ("torch", "tfds", "hfds", "hfids", "wds")


@dataclass(frozen=True)
class Datasets:
    """The splits of a dataset, without transforms.

    Attributes:
        training: images to train on.
        evaluation: images to evaluate on, if any.
        classes: number of classes.
        names: names of the classes in order; empty if the dataset does not list them.
    """

    training: Any
    evaluation: Any | None
    classes: int
    names: tuple[str, ...] = ()


def open_datasets(
    data: Path,
    *,
    kind: str = "",
    training: str = "train",
    evaluation: str = "validation",
    classes: int | None = None,
    **keys: Any,
) -> Datasets:
    """Open the splits of a dataset.

    Args:
        data: folder of the dataset.
        kind: as timm names it ("hfds/...", "wds/...", "torch/...", ...); empty for image folders, one per split, each
            with one folder per class.
        training: name of the split to train on.
        evaluation: name of the split to evaluate on; empty for none.
        classes: number of classes, if the dataset does not list them.
        **keys: `input_key` and `target_key`, for datasets with fields; None values are ignored.

    Raises:
        ValueError: splits that are missing or the same, or classes that are unknown or differ between the splits.
        OSError: no such folder.
    """
    first = open_split(data, training, kind=kind, is_training=True, **keys)
    count = _count_classes(classes, first)
    indices = {index: name for name, index in (class_indices(first) or {}).items()}
    names = tuple(indices[index] for index in range(count)) if len(indices) == count else ()
    second = None
    if evaluation:
        same = ClassNames(names, f"the split {training!r}") if names else None
        second = open_split(data, evaluation, kind=kind, classes=same, **keys)
    if isinstance(first, ImageFolder) and isinstance(second, ImageFolder) and first.root == second.root:
        raise ValueError(
            f"`data` must have folders {training} and {evaluation}, each with one folder per class, got {data} without "
            "them. To train without evaluation, give an empty `val_split`."
        )
    return Datasets(first, second, count, names)


def open_split(
    data: Path,
    split: str,
    *,
    kind: str = "",
    is_training: bool = False,
    classes: ClassNames | None = None,
    **keys: Any,
) -> Any:
    """Open one split of a dataset, as `open_datasets` does.

    `classes` determine the class numbers, by default the dataset's own; `is_training` shuffles streams.

    Raises:
        ValueError: a dataset that cannot be opened as this kind, or has unknown classes.
        OSError: no such folder.
    """
    keys = {name: key for name, key in keys.items() if key is not None}
    if not kind:
        return _open_folder(data, split, classes, keys)
    if not kind.lower().startswith(tuple(f"{known}/" for known in KINDS)):
        raise ValueError(f"`dataset` must be empty or start with one of {', '.join(KINDS)} and a /, got {kind!r}.")
    try:
        dataset = create_dataset(
            kind,
            root=str(data),
            split=split,
            is_training=is_training,
            class_map={} if classes is None else {name: number for number, name in enumerate(classes.names)},
            **keys,
        )
    # Each kind of dataset raises its own errors for a missing split.
    except (AssertionError, RuntimeError, ValueError, KeyError, NameError) as error:
        raise ValueError(f"`data` {data} has no split {split!r} that can be read: {error}") from error
    _check_split(data, split, dataset)
    if callable(getattr(dataset, "loader", None)):
        dataset.loader = read_image
    if classes is not None:
        _set_class_indices(dataset, classes)
    return dataset


def class_indices(dataset: Any) -> dict[str, int] | None:
    """Return class name -> index; None if the dataset does not list its classes."""
    for part in (getattr(dataset, "reader", None), dataset):
        index = getattr(part, "class_to_idx", None)
        if isinstance(index, dict) and index:
            return index
    return None


def _open_folder(data: Path, split: str, classes: ClassNames | None, keys: dict[str, Any]) -> ImageFolder:
    if not data.is_dir():
        raise NotADirectoryError(f"`data` must be a folder of images, got {data}.")
    if keys:
        raise ValueError(f"`{min(keys)}` must not be given for folders of images, which have no fields.")
    root = split_folder(data, split)
    try:
        return ImageFolder(root, classes)
    except ValueError as error:
        if root == data:
            raise ValueError(f"`data` {data} has no split {split!r} and no class folders: {error}") from error
        raise


def _set_class_indices(dataset: Any, classes: ClassNames) -> None:
    """Check that the classes of a dataset are known, and renumber those of torchvision, as timm's readers do.

    Raises:
        ValueError: unknown classes.
    """
    reader = getattr(dataset, "reader", None)
    if reader is not None:
        classes.class_to_idx((getattr(reader, "_source_names", None) or {}).values())
        return
    own = class_indices(dataset) or {}
    # A class of torchvision's ImageNet has several names, of which one must be known.
    indices = {own[name]: index for name, index in classes.known_class_to_idx(own).items()}
    classes.class_to_idx(name for name, index in own.items() if index not in indices)
    dataset.target_transform = indices.__getitem__


def _check_split(data: Path, split: str, dataset: Any) -> None:
    """Raise ValueError if timm took the whole folder, with all its splits, for a split that is missing."""
    if str(getattr(dataset, "root", None)) != str(data):
        return
    deep = next((name for name in image_names(dataset) if len(Path(name).parts) > 2), None)
    if deep is not None:
        raise ValueError(
            f"`data` must have a split {split!r} or one folder of images per class, but {data} has no split {split!r}, "
            f"got {deep}. Give the folder of the split."
        )


def _count_classes(classes: int | None, training: Any) -> int:
    index = class_indices(training)
    if classes is not None:
        if index is not None and max(index.values()) >= classes:
            raise ValueError(f"`num_classes` must be >= {max(index.values()) + 1}, got {classes}.")
        return classes
    if index is None:
        raise ValueError("`num_classes` must be given, because the dataset does not list its classes.")
    if len(index) < 2:
        raise ValueError(f"`data` must have at least two classes to train on, got one: {', '.join(index)}.")
    return len(index)
