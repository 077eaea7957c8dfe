"""What is compared: photographs, models, methods and metrics, checked before anything is computed."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.scoring import Subject
from vit_interactions.compare.units import PICTURES
from vit_interactions.explain.configured import ConfiguredMethod, Methods, configure
from vit_interactions.explain.registry import (
    attention_refusal,
    check_class,
    default_methods,
)
from vit_interactions.explain.settings import Settings
from vit_interactions.functional.scores import Output, check_output
from vit_interactions.images.boxes import ObjectBox, boxes_by_image, read_boxes, unused_boxes
from vit_interactions.images.listing import find_images
from vit_interactions.images.masks import masks_by_image, unused_masks
from vit_interactions.images.prepared import prepare, preprocessing
from vit_interactions.images.reading import to_rgb
from vit_interactions.loading.models import load_model, nearest
from vit_interactions.metrics import DEFAULT_METRICS, METRICS, Metric
from vit_interactions.models.trained_windows import trained_windows
from vit_interactions.utilities.checks import check_count, check_fraction, check_index
from vit_interactions.utilities.checksum import architecture_checksum, checksum
from vit_interactions.utilities.files import sha256, write_whole
from vit_interactions.utilities.names import unique_names
from vit_interactions.utilities.text import printable
from vit_interactions.utilities.writing import writing

CONTROL = "random_map"  # what any explanation must beat


@dataclass(frozen=True)
class Picture:
    """A photograph to measure.

    Attributes:
        key: names its files.
        name: for people.
        path: where it is; relative to the comparison's folder for one that was given as an image.
        boxes: around its objects.
        image: what was given in the place of a file.
        mask: where the mask of its object is, or should be; None where masks are not given.
    """

    key: str
    name: str
    path: Path
    boxes: tuple[ObjectBox, ...] = ()
    image: Image.Image | None = None
    mask: Path | None = None

    @property
    def source(self) -> Path:
        """What it is called where boxes and masks name it."""
        return self.path if self.image is None else Path(getattr(self.image, "filename", "") or self.name)

    def write_to(self, folder: Path) -> Path:
        """Return the picture's file; one that was given as an image is written below the comparison's folder."""
        path = folder / self.path
        if self.image is not None:
            upright = to_rgb(self.image)
            with writing(path):
                path.parent.mkdir(exist_ok=True)
            write_whole(path, lambda file: upright.save(file, "png"))
        return path

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest lists."""
        mask = None if self.mask is None else str(self.mask)
        boxes = [asdict(box) for box in self.boxes]
        return {"key": self.key, "name": self.name, "path": str(self.path), "boxes": boxes, "mask": mask}

    def objects(self) -> dict[str, Any]:
        """Return what units remember of where its objects are: boxes, and the SHA-256 of a mask that can be read."""
        mask = None
        if self.mask is not None:
            with suppress(OSError, ValueError):  # told where it is needed
                mask = sha256(self.mask)
        return {"boxes": self.as_json()["boxes"], "mask": mask}


@dataclass(frozen=True)
class Plan:
    """A comparison to run.

    Attributes:
        pictures: the photographs.
        subjects: the models by name.
        settings: methods, target, output, alpha and beta.
        metrics: what maps are measured by.
        seed: of everything that is drawn.
        batch_size: how many photographs are explained at once.
        notes: what to know of the input, a line each.
    """

    pictures: Sequence[Picture]
    subjects: Mapping[str, Subject]
    settings: Settings
    metrics: Sequence[Metric]
    seed: int
    batch_size: int
    notes: Sequence[str] = ()

    def describe(self) -> dict[str, Any]:
        """Return the settings as the manifest gives them."""
        chosen = {name: getattr(self.settings, name) for name in ("target", "output", "alpha", "beta")}
        return {
            **chosen,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "methods": {method.name: method.describe() for method in self.settings.methods},
            "metrics": {metric.name: describe_metric(metric) for metric in self.metrics},
        }

    def describe_models(self) -> dict[str, dict[str, Any]]:
        """Return for each model what its results depend on: device, preprocessing, weights and architecture."""
        return {
            name: {
                "folder": folder,
                "device": subject.device_name,
                "preprocessing": str(preprocessing(subject.model)),
                "normalisation": [
                    list(values) for values in subject.normalisation
                ],  # the preprocessing in words has four digits
                "weights": checksum(subject.model),
                "architecture": architecture_checksum(subject.model),
                "named": subject.named,
                "trained": dict(subject.trained),
            }
            for folder, (name, subject) in zip(slugs(self.subjects), self.subjects.items(), strict=True)
        }


def make_plan(
    photographs: Iterable[str | PathLike[str] | Image.Image],
    model: str | nn.Module | Mapping[str, str | nn.Module],
    methods: Methods | None,
    metrics: Iterable[str | Metric] | None,
    *,
    boxes: str | PathLike[str] | None,
    masks: str | PathLike[str] | None,
    target: int | str,
    alpha: float,
    beta: float,
    device: str,
    seed: int,
    batch_size: int = 1,
    output: Output | None = None,
) -> Plan:
    """Check the arguments of `compare`, which says what they are, and load the models."""
    check_fraction("alpha", alpha)
    check_fraction("beta", beta)
    if boxes is not None and masks is not None:
        raise ValueError("`boxes` and `masks` say both where objects are: give one of them.")
    check_target(target, boxes=boxes is not None)
    check_output("output", output)
    if check_index("seed", seed) < 0:
        raise ValueError(f"`seed` must be >= 0, but got {seed}.")
    check_count("batch_size", batch_size)
    chosen_metrics = choose_metrics(metrics, objects=boxes is not None or masks is not None)
    pictures = list_pictures(photographs)
    sources = [picture.source for picture in pictures]
    notes = []
    if boxes is not None:
        rows = read_boxes(Path(boxes))
        found, notes = boxes_by_image(rows, sources), unused_boxes(rows, sources)
        pictures = [replace(picture, boxes=tuple(found[picture.source])) for picture in pictures]
    if masks is not None:
        files = masks_by_image(Path(masks).absolute(), sources)
        notes = unused_masks(Path(masks).absolute(), files.values())
        pictures = [replace(picture, mask=files[picture.source]) for picture in pictures]
    subjects = find_subjects(model, device)
    if not isinstance(target, str):
        for name, subject in subjects.items():
            check_class("target", target, subject.model, name)
    if methods is None:
        reasons = {name: attention_refusal(subject.model) for name, subject in subjects.items()}
        notes = [*notes, *(f"{name}: {reason}" for name, reason in reasons.items() if reason)]
    chosen = choose_methods(methods, subjects)
    settings = Settings(", ".join(subjects), methods=chosen, alpha=alpha, beta=beta, target=target, output=output)
    return Plan(pictures, subjects, settings, chosen_metrics, seed, batch_size, notes)


def list_pictures(photographs: Iterable[str | PathLike[str] | Image.Image]) -> list[Picture]:
    """List photographs, files and the pictures of folders before images of Pillow, each with a key of its own.

    Raises:
        ValueError: none, or a folder without pictures.
        TypeError: something that is no path and no image.
    """
    if isinstance(photographs, str | PathLike | Image.Image):
        photographs = [photographs]
    given = list(photographs)
    for item in given:
        if not isinstance(item, str | PathLike | Image.Image):
            raise TypeError(f"`photographs` must be paths or images of Pillow, but got {type(item).__name__}.")
    images = [item for item in given if isinstance(item, Image.Image)]
    paths = [Path(item) for item in given if not isinstance(item, Image.Image)]
    if not given:
        raise ValueError("`photographs` must be at least one picture, but got none.")
    files = [path.absolute() for path in find_images(paths)] if paths else []
    names = [file.name for file in files]
    names += [Path(getattr(image, "filename", "") or f"picture {i}").name for i, image in enumerate(images, 1)]
    pictures = []
    for number, (key, name) in enumerate(zip(slugs(names), names, strict=True)):
        image = images[number - len(files)] if number >= len(files) else None
        path = files[number] if image is None else Path(PICTURES, f"{key}.png")
        pictures.append(Picture(key, printable(name), path, image=image))
    return pictures


def slugs(names: Iterable[str]) -> list[str]:
    """Name files after anything, apart also where the names are alike: letters, digits, - and _ only.

    Example:
        >>> slugs(["cat.jpg", "<b>cat</b>.jpg", "cat.png", "ねこ.jpg"])
        ['cat', 'b-cat-b', 'cat-2', 'unnamed']
    """
    plain = (re.sub(r"[^A-Za-z0-9_]+", "-", re.sub(r"\.\w{1,5}$", "", name)).strip("-") for name in names)
    return unique_names(name[:60].lower() for name in plain)


def find_subjects(model: str | nn.Module | Mapping[str, str | nn.Module], device: str) -> dict[str, Subject]:
    """Load the models that are given by name, and check that each can be compared under.

    Raises:
        ValueError: no model, or one that does not state its preprocessing.
        TypeError: something that is no name and no model.
        UnsupportedModelError: a model that cannot be run.
    """
    if isinstance(model, str):
        model = {model: model}
    elif isinstance(model, nn.Module):
        model = {type(unwrap(model)).__name__: model}
    if not isinstance(model, Mapping):
        raise TypeError(
            "`model` must be a name, a model, or a dict of them by the names that tables shall call them, but got "
            f"{type(model).__name__}."
        )
    if not model:
        raise ValueError("`model` must be at least one, but got none.")
    subjects = {}
    for name, given in model.items():
        if not isinstance(given, str | nn.Module):
            raise TypeError(f"`model` must be names or models, but {name!r} is {type(given).__name__}.")
        subjects[name] = (
            Subject(
                load_model(given, device=device, needs_attention=False), named=True, trained=trained_windows(given)
            )
            if isinstance(given, str)
            else Subject(unwrap(given), named=False)
        )
        _ = subjects[name].normalisation  # raises where there is none
        height, width = prepare(Image.new("RGB", (64, 64)), subjects[name].model).input.shape[-2:]
        image_layout(subjects[name].model, (height, width))  # raises where the model does not run
    return subjects


def choose_methods(methods: Methods | None, subjects: Mapping[str, Subject]) -> tuple[ConfiguredMethod, ...]:
    """Configure methods, or choose those of few passes that any of the models has, and the random control.

    Raises:
        ValueError: no method, or as of `configure`.
    """
    if methods is None:
        methods = [name for subject in subjects.values() for name in default_methods(subject.model)]
        methods = [*methods, CONTROL]
    chosen = configure(methods, next(iter(subjects.values())).model)
    if not chosen:
        raise ValueError("`methods` must name at least one, got none.")
    return chosen


def choose_metrics(metrics: Iterable[str | Metric] | None, *, objects: bool) -> list[Metric]:
    """Find metrics by their names, or choose the cheap ones, without those that need objects where none are given.

    Raises:
        ValueError: an unknown metric, two of one name, or one that needs objects where none are given.
    """
    if metrics is None:
        return [METRICS[name] for name in DEFAULT_METRICS if objects or "object" not in METRICS[name].needs]
    found: dict[str, Metric] = {}
    for metric in [metrics] if isinstance(metrics, str | Metric) else metrics:
        if not isinstance(metric, str | Metric):
            raise TypeError(
                f"`metrics` must be names or `vit_interactions.metrics.Metric`, but got {type(metric).__name__}."
            )
        name = metric if isinstance(metric, str) else metric.name
        if isinstance(metric, str) and metric not in METRICS:
            raise ValueError(
                f"`metrics` must be of {', '.join(METRICS)}, but got {name!r}.{nearest(name, METRICS)}"
            )
        if name in found or name in COSTS:
            raise ValueError(
                f"`metrics` must have a name each, but got {name!r} twice; what makes a metric takes a `name`."
            )
        found[name] = METRICS[metric] if isinstance(metric, str) else metric
        if "object" in found[name].needs and not objects:
            raise ValueError(f"`metrics` has {name!r}, which needs `boxes` or `masks`, but got neither.")
    return list(found.values())


def check_target(target: int | str, *, boxes: bool) -> None:
    """Raise ValueError unless the target is a class >= 0, "pred", or with boxes "boxes"."""
    if not isinstance(target, str):
        if check_index("target", target) < 0:
            raise ValueError(f"`target` must be a class >= 0, 'pred' or 'boxes', but got {target}.")
    elif target not in ("pred", "boxes"):
        raise ValueError(f"`target` must be a class >= 0, 'pred' or 'boxes', but got {target!r}.")
    elif target == "boxes" and not boxes:
        raise ValueError(
            "`target` 'boxes' is the class of each photograph's first box, but `boxes` is not given, and masks have no "
            "class."
        )


def describe_metric(metric: Metric) -> dict[str, Any]:
    """Return what a metric says of itself, as JSON gives it back; an end of its range that is no number is None."""
    said = {name: value for name, value in vars(metric).items() if name not in ("name", "measure")}
    said |= {"needs": sorted(metric.needs), "range": [end if isfinite(end) else None for end in metric.range]}
    plain: dict[str, Any] = json.loads(json.dumps(said, default=str))
    return plain
