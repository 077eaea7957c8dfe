"""The plan of a comparison: images, models, methods and metrics, checked before anything is computed."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.manifest import FORMAT, IMAGES, ListedImage
from vit_interactions.compare.models import ComparedModel, load_models
from vit_interactions.compare.summary import BASELINE
from vit_interactions.explain.configured import ConfiguredMethod, Methods, configure
from vit_interactions.explain.registry import (
    check_class,
    default_methods,
    why_unsupported,
)
from vit_interactions.explain.settings import Settings
from vit_interactions.functional.scores import Output, check_output
from vit_interactions.images.boxes import boxes_by_image, read_boxes, unused_boxes
from vit_interactions.images.listing import find_images
from vit_interactions.images.masks import masks_by_image, unused_masks
from vit_interactions.metrics import DEFAULT_METRICS, METRICS, Metric
from vit_interactions.utilities.checks import check_count, check_fraction, check_index
from vit_interactions.utilities.names import unique_names
from vit_interactions.utilities.text import did_you_mean, printable
from vit_interactions.utilities.versions import versions

PACKAGES = ("pandas", "scipy", "torchvision")


@dataclass(frozen=True)
class Plan:
    """A comparison to run.

    Attributes:
        images: to explain.
        models: by display name.
        settings: methods, target, output, alpha and beta.
        metrics: to measure maps by.
        seed: of all random numbers.
        batch_size: images per batch.
        notes: remarks on the input, one line each.
    """

    images: Sequence[ListedImage]
    models: Mapping[str, ComparedModel]
    settings: Settings
    metrics: Sequence[Metric]
    seed: int
    batch_size: int
    notes: Sequence[str] = ()

    def describe(self) -> dict[str, Any]:
        """Return the manifest of the comparison."""
        shared = ("target", "output", "alpha", "beta", "coverage", "exclude_sinks")
        chosen = {name: getattr(self.settings, name) for name in shared}
        settings = {
            **chosen,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "methods": {method.name: method.describe() for method in self.settings.methods},
            "metrics": {metric.name: describe_metric(metric) for metric in self.metrics},
        }
        return {
            "format": FORMAT,
            "settings": settings,
            "versions": {**versions(), **{package: version(package) for package in PACKAGES}},
            "models": {
                name: {"folder": folder, **model.describe()}
                for folder, (name, model) in zip(slugs(self.models), self.models.items(), strict=True)
            },
            "images": [image.as_json() for image in self.images],
            "notes": list(self.notes),
        }


def make_plan(
    images: Iterable[str | PathLike[str] | Image.Image],
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
    coverage: float = 1.0,
    exclude_sinks: bool = False,
) -> Plan:
    """Check the arguments, which are those of `compare`, and load the models."""
    check_fraction("alpha", alpha)
    check_fraction("beta", beta)
    check_fraction("coverage", coverage)
    if boxes is not None and masks is not None:
        raise ValueError("`boxes` and `masks` must not both be given. Choose one of them.")
    check_target(target, boxes=boxes is not None)
    check_output("output", output)
    if check_index("seed", seed) < 0:
        raise ValueError(f"`seed` must be >= 0, got {seed}.")
    check_count("batch_size", batch_size)
    chosen_metrics = choose_metrics(metrics, objects=boxes is not None or masks is not None)
    listed = list_images(images)
    sources = [image.source for image in listed]
    notes = []
    if boxes is not None:
        rows = read_boxes(Path(boxes))
        found, notes = boxes_by_image(rows, sources), unused_boxes(rows, sources)
        listed = [replace(image, boxes=tuple(found[image.source])) for image in listed]
    if masks is not None:
        files = masks_by_image(Path(masks).absolute(), sources)
        notes = unused_masks(Path(masks).absolute(), files.values())
        listed = [replace(image, mask=files[image.source]) for image in listed]
    models = load_models(model, device)
    if not isinstance(target, str):
        for name, each in models.items():
            check_class("target", target, each.model, name)
    if methods is None:
        reasons = {name: why_unsupported(each.model) for name, each in models.items()}
        notes = [*notes, *(f"{name}: {reason}" for name, reason in reasons.items() if reason)]
    chosen = choose_methods(methods, models)
    settings = Settings(
        ", ".join(models),
        methods=chosen,
        alpha=alpha,
        beta=beta,
        target=target,
        output=output,
        coverage=coverage,
        exclude_sinks=exclude_sinks,
    )
    return Plan(listed, models, settings, chosen_metrics, seed, batch_size, notes)


def list_images(images: Iterable[str | PathLike[str] | Image.Image]) -> list[ListedImage]:
    """List the images of files and folders, then the Pillow images, each with a unique key.

    Raises:
        ValueError: none, or a folder without images.
        TypeError: neither a path nor a Pillow image.
    """
    if isinstance(images, str | PathLike | Image.Image):
        images = [images]
    given = list(images)
    for item in given:
        if not isinstance(item, str | PathLike | Image.Image):
            raise TypeError(f"`images` must be paths or Pillow images, got {type(item).__name__}.")
    if not given:
        raise ValueError("`images` must contain at least one image, got none.")
    paths = [Path(item) for item in given if not isinstance(item, Image.Image)]
    files = [path.absolute() for path in find_images(paths)] if paths else []
    pillow = [item for item in given if isinstance(item, Image.Image)]
    names = [file.name for file in files]
    names += [Path(getattr(image, "filename", "") or f"image {i}").name for i, image in enumerate(pillow, 1)]
    keys = slugs(names)
    paths = [*files, *(Path(IMAGES, f"{key}.png") for key in keys[len(files) :])]
    sources = [*(None for _ in files), *pillow]
    return [
        ListedImage(key, printable(name), path, pillow=source)
        for key, name, path, source in zip(keys, names, paths, sources, strict=True)
    ]


def slugs(names: Iterable[str]) -> list[str]:
    """Return unique names for files, made of letters, digits, - and _ only.

    Example:
        >>> slugs(["cat.jpg", "<b>cat</b>.jpg", "cat.png", "ねこ.jpg"])
        ['cat', 'b-cat-b', 'cat-2', 'unnamed']
    """
    plain = (re.sub(r"[^A-Za-z0-9_]+", "-", re.sub(r"\.\w{1,5}$", "", name)).strip("-") for name in names)
    return unique_names(name[:60].lower() for name in plain)


def choose_methods(methods: Methods | None, models: Mapping[str, ComparedModel]) -> tuple[ConfiguredMethod, ...]:
    """Configure methods, or choose the fast ones that any of the models supports, and the random baseline.

    Raises:
        ValueError: no method, or an error of `configure`.
    """
    if methods is None:
        methods = [name for each in models.values() for name in default_methods(each.model)]
        methods = [*methods, BASELINE]
    chosen = configure(methods, next(iter(models.values())).model)
    if not chosen:
        raise ValueError("`methods` must name at least one, got none.")
    return chosen


def choose_metrics(metrics: Iterable[str | Metric] | None, *, objects: bool) -> list[Metric]:
    """Find metrics by name, or choose the cheap ones that the given objects allow.

    Raises:
        ValueError: an unknown metric, two of one name, or one that needs objects if none are given.
    """
    if metrics is None:
        return [METRICS[name] for name in DEFAULT_METRICS if objects or "object" not in METRICS[name].needs]
    found: dict[str, Metric] = {}
    for metric in [metrics] if isinstance(metrics, str | Metric) else metrics:
        if not isinstance(metric, str | Metric):
            raise TypeError(
                f"`metrics` must be names or `vit_interactions.metrics.Metric`, got {type(metric).__name__}."
            )
        name = metric if isinstance(metric, str) else metric.name
        if isinstance(metric, str) and metric not in METRICS:
            raise ValueError(
                f"`metrics` must be among {', '.join(METRICS)}, got {name!r}.{did_you_mean(name, METRICS)}"
            )
        if name in found or name in COSTS:
            raise ValueError(
                f"`metrics` must have different names, got {name!r} twice. Pass a `name` to the function "
                "that makes the metric."
            )
        found[name] = METRICS[metric] if isinstance(metric, str) else metric
        if "object" in found[name].needs and not objects:
            raise ValueError(f"`boxes` or `masks` must be given for {name!r}, got neither.")
    return list(found.values())


def check_target(target: int | str, *, boxes: bool) -> None:
    """Raise ValueError unless the target is a class >= 0, "pred", or with boxes "boxes"."""
    if not isinstance(target, str):
        if check_index("target", target) < 0:
            raise ValueError(f"`target` must be a class >= 0, 'pred' or 'boxes', got {target}.")
    elif target not in ("pred", "boxes"):
        raise ValueError(f"`target` must be a class >= 0, 'pred' or 'boxes', got {target!r}.")
    elif target == "boxes" and not boxes:
        raise ValueError(
            "`boxes` must be given for `target` 'boxes', the class of each image's first box; masks have no class."
        )


def describe_metric(metric: Metric) -> dict[str, Any]:
    """Return the description of a metric for the manifest; an infinite end of its range is None."""
    facts = {name: value for name, value in vars(metric).items() if name not in ("name", "measure")}
    facts |= {"needs": sorted(metric.needs), "range": [end if isfinite(end) else None for end in metric.range]}
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain
