"""Measure photographs under one model: all methods' maps, by all metrics, and what they cost.

What goes wrong in one method or metric is written down, and is that one's alone.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import transforms

from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.compare.cost import MEGABYTE
from vit_interactions.compare.maps import FoundMap, Maps, turn
from vit_interactions.compare.units import Array, Failure
from vit_interactions.compare.view import View
from vit_interactions.explain import ZeroMapWarning
from vit_interactions.explain.settings import Settings
from vit_interactions.figures import PreparedImage
from vit_interactions.functional.scores import Output
from vit_interactions.images.boxes import ObjectBox
from vit_interactions.images.objects import inside_object
from vit_interactions.images.placement import Placement
from vit_interactions.images.prepared import preprocessing
from vit_interactions.loading.predictions import answer
from vit_interactions.metrics import Case, Metric, Score
from vit_interactions.utilities.seeds import seeded


@dataclass(frozen=True)
class Subject:
    """A model to compare under.

    Attributes:
        model: in evaluation mode on its device.
        named: whether its classes are those of timm's own weights, whose names are known.
        trained: the alpha and beta that it was trained with, where they are known.
    """

    model: nn.Module
    named: bool
    trained: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that the model's inputs are normalised by, one number a channel.

        Raises:
            ValueError: the model does not state its preprocessing, or does not normalise as timm does.
        """
        steps = preprocessing(self.model).transforms
        step = next((step for step in steps if isinstance(step, transforms.Normalize)), None)
        if step is None:
            raise ValueError(
                "`model` must normalise its input by a mean and a standard deviation, but it does not."
            )
        mean, std = (tuple(torch.as_tensor(values).flatten().tolist()) for values in (step.mean, step.std))
        return mean, std

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @property
    def device_name(self) -> str:
        """What computes: the card's name, or the kind of device."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type


@dataclass(frozen=True, eq=False)
class Seen:
    """A photograph before a model.

    Attributes:
        inputs: (1, channels, height, width) on the model's device.
        view: how the model saw it.
        inside: (rows, cols) bool, the patches on the object, or the error of looking for them.
    """

    inputs: Tensor
    view: View
    inside: Tensor | ValueError


@dataclass
class Findings:
    """The parts of a `Unit` that measuring fills; see there."""

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    window_share: float | None = None


def look(
    subject: Subject,
    photograph: PreparedImage,
    boxes: Sequence[ObjectBox],
    mask: Path | None,
    target: int | str,
    output: Output | None = None,
) -> Seen:
    """Show a photograph to a model.

    Args:
        subject: the model.
        photograph: from `figures.prepare`.
        boxes: around objects of any class; those of the explained class count.
        mask: the file of the object's mask, in the place of boxes.
        target: as of `choose_target`.
        output: as of `predictions.answer`.

    Raises:
        UnsupportedModelError: the model's patches cannot be told.
        ValueError: target "boxes" without a box that has a class, or a target that is none of the model's.
    """
    kind = next((p.dtype for p in subject.model.parameters() if p.is_floating_point()), photograph.input.dtype)
    inputs = photograph.input.unsqueeze(0).to(subject.device, kind)
    layout = image_layout(subject.model, (inputs.shape[-2], inputs.shape[-1]))
    view = see(subject, inputs, choose_target(target, boxes), layout, photograph.placement, output)
    inside: Tensor | ValueError
    try:
        inside = inside_object(photograph, layout, boxes, mask, view.target)
    except ValueError as error:  # the failure of the metrics that need it, and of nothing else
        inside = error
    return Seen(inputs, view, inside)


def measure(
    subject: Subject, seen: Seen, maps: Maps, settings: Settings, metrics: Sequence[Metric], seed: int
) -> Findings:
    """Measure the maps of one photograph.

    Args:
        subject: the model.
        seen: the photograph.
        maps: from `maps.explain_batch`.
        settings: methods, alpha and beta.
        metrics: what to measure the maps by.
        seed: of everything that is drawn; each metric begins with it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # metrics that explain again say it where it matters
        return _Measurement(subject, seen, settings, metrics, seed).run(maps)


class _Measurement:
    """What the methods and metrics of one photograph share."""

    def __init__(
        self, subject: Subject, seen: Seen, settings: Settings, metrics: Sequence[Metric], seed: int
    ) -> None:
        self.subject, self.seen = subject, seen
        self.methods = {method.name: method for method in settings.methods}
        self.metrics, self.seed = metrics, seed
        self.scores: dict[tuple[str, bytes], float] = {}
        self.found = Findings()

    def run(self, maps: Maps) -> Findings:
        """Measure the map of each method by each metric."""
        self.found.window_share = maps.window_share
        for name, found in maps.by_method.items():
            if isinstance(found, Failure):
                self.found.failures.append(found)
            else:
                self._measure_map(name, found)
        return self.found

    def _measure_map(self, name: str, found: FoundMap) -> None:
        self.found.arrays[f"map/{name}"] = found.values.numpy()
        values = {"seconds": found.seconds, "forwards": found.forwards}
        if found.peak is not None:
            values["peak_memory"] = found.peak / MEGABYTE
        self.found.values[name] = values
        for metric in self.metrics:
            try:
                with seeded(self.seed):
                    score = metric.measure(self._case(name, metric), found.values)
                if not isinstance(score, Score):
                    raise TypeError(f"the metric must give a Score, but gave {type(score).__name__}.")
                if not isfinite(score.value):
                    raise ValueError(f"the metric gave {score.value}, which is no finite number.")
                values[metric.name] = float(score.value)
                if score.curve is not None:
                    self.found.arrays[f"curve/{metric.name}/{name}"] = score.curve.cpu().numpy()
            # Metrics may come from anywhere: what goes wrong in one, of whatever kind, is that one's alone.
            except Exception as error:
                self.found.failures.append(Failure.of(error, name, metric.name))

    def _case(self, name: str, metric: Metric) -> Case:
        """Make what a metric is given.

        Raises:
            ValueError: a metric that looks at a class's score, of a model without classes; one that needs the object,
                of a photograph without.
        """
        target = self.seen.view.target
        localises = "object" in metric.needs
        if localises and isinstance(self.seen.inside, ValueError):
            raise self.seen.inside.with_traceback(None)
        if target is None:
            if not localises:
                raise ValueError(
                    "the model has no classes (its output is neither (batch, classes) nor (batch,)), and this metric "
                    "needs the score of one."
                )
            target = 0  # metrics of localisation look at none

        def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
            explainer = self.methods[name].create(model)
            return turn(explainer.patch_map(inputs, target if explainer.class_specific else None), explainer)

        mean, std = self.subject.normalisation
        return Case(
            self.subject.model,
            self.seen.inputs,
            target,
            self.seen.view.layout,
            mean,
            std,
            inside=self.seen.inside if isinstance(self.seen.inside, Tensor) else None,
            explain=explain,
            seed=self.seed,
            scores=self.scores,
            output=self.seen.view.explained.output if self.seen.view.explained else None,
        )


def choose_target(target: int | str, boxes: Sequence[ObjectBox]) -> int | None:
    """Return the class to explain; None for that of the highest score.

    Args:
        target: a class, "pred" for that of the highest score, or "boxes" for that of the first box.
        boxes: of the photograph.

    Raises:
        ValueError: "boxes", and no box has a class.

    Example:
        >>> choose_target("boxes", [ObjectBox(0, 0, 1, 1, index=3)])
        3
    """
    if isinstance(target, int):
        return target
    if target == "pred":
        return None
    index = next((box.index for box in boxes if box.index is not None), None)
    if index is None:
        raise ValueError(
            "target 'boxes' is the class of the photograph's first box, but no box of it has a class."
        )
    return index


def see(
    subject: Subject,
    inputs: Tensor,
    target: int | None,
    layout: TokenLayout,
    placement: Placement,
    output: Output | None = None,
) -> View:
    """Classify one image (1, channels, height, width), and say what is explained of it.

    Raises:
        ValueError: `target` is none of the model's classes, scores are not finite, or `output` does not fit them.
    """
    found = answer(subject.model, inputs, output)
    if found is None:
        return View(None, None, layout, placement)
    if not found.outputs.isfinite().all():
        raise ValueError("the model gave NaN or infinite scores.")
    classes = len(found.outputs)
    if target is not None and not 0 <= target < classes:
        raise ValueError(f"`target` must be one of the classes 0 ... {classes - 1}, but got {target}.")
    prediction, explained = (
        found.prediction(subject.model, index, named=subject.named)
        for index in (found.top, found.top if target is None else target)
    )
    return View(prediction, explained, layout, placement)
