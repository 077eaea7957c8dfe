"""The pictures to train on and to evaluate on, from any source that timm reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import create_dataset

from vit_interactions.images import read_image
from vit_interactions.training.data.class_names import ClassNames
from vit_interactions.training.data.folders import ImageFolder, split_folder
from vit_interactions.training.data.images import image_names

# What may stand before the / of a source's name; other names are folders of pictures to timm.
KINDS = ("torch", "tfds", "hfds", "hfids", "wds")


@dataclass(frozen=True)
class Datasets:
    """Datasets of timm, without transforms yet.

    Attributes:
        training: pictures to train on.
        evaluation: pictures to evaluate on; None where there are none.
        classes: how many classes there are.
        names: of the classes in order, where the source tells them.
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
    """Open the parts of a source.

    Args:
        data: folder of the source. In folders of pictures each part is a folder with one folder a class.
        kind: as timm names it ("hfds/...", "wds/...", "torch/...", ...); empty: folders of pictures.
        training: name of the part to train on.
        evaluation: name of the part to evaluate on; empty: none.
        classes: number of classes, where the source does not tell it.
        **keys: further names that the source needs: `input_key`, `target_key`.

    Raises:
        ValueError: parts that are missing or the same, classes that are unknown or that differ between them.
        OSError: nothing there.
    """
    keys = {name: key for name, key in keys.items() if key is not None}
    first = open_split(data, training, kind=kind, is_training=True, **keys)
    count = _count(classes, first)
    names = {number: name for name, number in (class_indices(first) or {}).items()}
    told = tuple(names[number] for number in range(count)) if len(names) == count else ()
    second = None
    if evaluation:
        same = ClassNames(told, f"the part {training!r}") if told else None
        second = open_split(data, evaluation, kind=kind, classes=same, **keys)
    if isinstance(first, ImageFolder) and isinstance(second, ImageFolder) and first.root == second.root:
        raise ValueError(
            f"`data` must have a folder {training} and a folder {evaluation}, each with one folder per class, but "
            f"{data} does not. To train without evaluation, give an empty `val_split`."
        )
    return Datasets(first, second, count, told)


def open_split(
    data: Path,
    split: str,
    *,
    kind: str = "",
    is_training: bool = False,
    classes: ClassNames | None = None,
    **keys: Any,
) -> Any:
    """Open one part of a source, as `open_datasets` describes it.

    Args:
        data: as of `open_datasets`.
        split: name of the part.
        kind: as of `open_datasets`.
        is_training: whether streams are shuffled.
        classes: the classes to number the source's by; None: by the source itself.
        **keys: as of `open_datasets`.

    Raises:
        ValueError: the source cannot be opened as what it is said to be, or has unknown classes.
        OSError: nothing there.
    """
    if kind and not kind.lower().startswith(tuple(f"{known}/" for known in KINDS)):
        raise ValueError(
            f"`dataset` must be empty or start with one of {', '.join(KINDS)} and a /, but got {kind!r}."
        )
    if not kind:
        return _open_folder(data, split, classes, keys)
    try:
        dataset = create_dataset(
            kind,
            root=str(data),
            split=split,
            is_training=is_training,
            class_map={} if classes is None else {name: number for number, name in enumerate(classes.names)},
            **keys,
        )
    # Each kind of source has errors of its own; what they mean to the user is one thing.
    except (AssertionError, RuntimeError, ValueError, KeyError, NameError) as error:
        raise ValueError(f"`data` {data} has no part {split!r} that can be read: {error}") from error
    _check_part(data, split, dataset)
    if callable(getattr(dataset, "loader", None)):
        dataset.loader = read_image
    if classes is not None:
        _number_classes(dataset, classes)
    return dataset


def class_indices(dataset: Any) -> dict[str, int] | None:
    """Return the index of each class's name, where the source tells it."""
    for part in (getattr(dataset, "reader", None), dataset):
        index = getattr(part, "class_to_idx", None)
        if isinstance(index, dict) and index:
            return index
    return None


def _open_folder(data: Path, split: str, classes: ClassNames | None, keys: Mapping[str, Any]) -> ImageFolder:
    if not data.is_dir():
        raise NotADirectoryError(f"`data` must be a folder of images, got {data}.")
    if keys:
        raise ValueError(f"`{min(keys)}` must be left out for folders of images, which have no fields.")
    root = split_folder(data, split)
    try:
        return ImageFolder(root, classes)
    except ValueError as error:
        if root == data:
            raise ValueError(f"`data` {data} has no part {split!r}, and is not one itself: {error}") from error
        raise


def _number_classes(dataset: Any, classes: ClassNames) -> None:
    """Check that the classes of a source are known, and number those of torchvision's; timm's readers number theirs.

    Raises:
        ValueError: unknown classes.
    """
    reader = getattr(dataset, "reader", None)
    if reader is not None:
        classes.numbers((getattr(reader, "_source_names", None) or {}).values())
        return
    own = class_indices(dataset) or {}
    known = classes.among(own)  # a class of torchvision's ImageNet has several names
    numbers = {own[name]: number for name, number in known.items()}
    classes.numbers(name for name, number in own.items() if number not in numbers)
    dataset.target_transform = numbers.__getitem__


def _check_part(data: Path, split: str, dataset: Any) -> None:
    """Raise ValueError where timm took the whole folder for a part that is missing, other parts and all."""
    if str(getattr(dataset, "root", None)) != str(data):
        return
    other = next((name for name in image_names(dataset) if len(Path(name).parts) > 2), None)
    if other is not None:
        raise ValueError(
            f"`data` {data} has no part {split!r}, and is not one itself, with one folder a class: it holds {other}."
        )


def _count(classes: int | None, training: Any) -> int:
    index = class_indices(training)
    if index is not None and len(index) < 2 and classes is None:
        raise ValueError(f"`data` must have at least two classes to train on, got one: {', '.join(index)}.")
    if classes is not None:
        if index is not None and max(index.values()) >= classes:
            raise ValueError(f"`num_classes` must be at least {max(index.values()) + 1}, but got {classes}.")
        return classes
    if index is None:
        raise ValueError("`num_classes` must be given: the source does not tell how many classes it has.")
    return len(index)
