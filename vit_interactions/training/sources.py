"""The pictures to train on and to evaluate on, from any source that timm reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import create_dataset

from vit_interactions.training.pictures import picture_names

# What may stand before the / of a source's name; other names are folders of pictures to timm.
KINDS = ("torch", "tfds", "hfds", "hfids", "wds")


@dataclass(frozen=True)
class Sources:
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


def open_sources(
    data: Path,
    *,
    kind: str = "",
    training: str = "train",
    evaluation: str = "validation",
    classes: int | None = None,
    **keys: Any,
) -> Sources:
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
    first = open_part(data, training, kind=kind, is_training=True, **keys)
    second = open_part(data, evaluation, kind=kind, **keys) if evaluation else None
    if second is not None and _root(first) is not None and _root(first) == _root(second):
        raise ValueError(
            f"`data` must have a folder {training} and a folder {evaluation}, each with one folder a class, but "
            f"{data} has not; to train without evaluation, give an empty `val_split`."
        )
    known = class_index(first)
    if second is not None and known is not None and class_index(second) != known:
        second = _with_classes_of(data, evaluation, known, second)
    count = _count(classes, first)
    names = {number: name for name, number in (known or {}).items()}
    told = tuple(names[number] for number in range(count)) if len(names) == count else ()
    return Sources(first, second, count, told)


def open_part(data: Path, split: str, *, kind: str = "", is_training: bool = False, **keys: Any) -> Any:
    """Open one part of a source, as `open_sources` describes it.

    Raises:
        ValueError: the source cannot be opened as what it is said to be.
        OSError: nothing there.
    """
    if kind and not kind.lower().startswith(tuple(f"{known}/" for known in KINDS)):
        raise ValueError(
            f"`dataset` must be empty or start with one of {', '.join(KINDS)} and a /, but got {kind!r}."
        )
    if not kind and not data.is_dir():
        raise NotADirectoryError(f"`data` must be a folder of pictures, but there is none at {data}.")
    try:
        dataset = create_dataset(kind, root=str(data), split=split, is_training=is_training, **keys)
    # Each kind of source has errors of its own; what they mean to the user is one thing.
    except (AssertionError, RuntimeError, ValueError, KeyError, NameError) as error:
        raise ValueError(f"`data` {data} has no part {split!r} that can be read: {error}") from error
    _check_part(data, split, dataset)
    return dataset


def class_index(dataset: Any) -> dict[str, int] | None:
    """Return the index of each class's name, where the source tells it."""
    for part in (getattr(dataset, "reader", None), dataset):
        index = getattr(part, "class_to_idx", None)
        if isinstance(index, dict):
            return index
    return None


def _check_part(data: Path, split: str, dataset: Any) -> None:
    """Raise ValueError where timm took the whole folder for a part that is missing, other parts and all."""
    if (_root(dataset) or getattr(dataset, "root", None)) != str(data):
        return
    other = next((name for name in picture_names(dataset) if len(Path(name).parts) > 2), None)
    if other is not None:
        raise ValueError(
            f"`data` {data} has no part {split!r}, and is not one itself, with one folder a class: it holds {other}."
        )


def _root(dataset: Any) -> str | None:
    root = getattr(getattr(dataset, "reader", None), "root", None)
    return root if isinstance(root, str) else None


def _with_classes_of(data: Path, split: str, known: dict[str, int], dataset: Any) -> Any:
    """Number the classes as in training, where fewer of them occur."""
    strange = sorted({*(class_index(dataset) or ())} - {*known})
    if strange or _root(dataset) is None:
        raise ValueError(
            f"`val_split` {split} must have classes of the training part only, but has also {', '.join(strange[:3])}."
        )
    return open_part(data, split, class_map=known)


def _count(classes: int | None, training: Any) -> int:
    index = class_index(training)
    if classes is not None:
        if index is not None and max(index.values()) >= classes:
            raise ValueError(f"`num_classes` must be at least {max(index.values()) + 1}, but got {classes}.")
        return classes
    if index is None:
        raise ValueError("`num_classes` must be given: the source does not tell how many classes it has.")
    return len(index)
