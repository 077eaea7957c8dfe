"""Measure one photograph under one model: all methods' maps, by all metrics, and what they cost.

What goes wrong in one method or metric is written down, and is that one's alone.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import TypeVar

import torch
from torch import Tensor, nn
from torchvision import transforms

from vit_interactions.attention.layout import TokenLayout, token_layout
from vit_interactions.compare.boxes import ObjectBox, boxes_of_class, inside_boxes
from vit_interactions.compare.cost import MEGABYTE, Measured, measured
from vit_interactions.compare.metrics import Case, Metric
from vit_interactions.compare.units import Array, Failure
from vit_interactions.compare.view import View
from vit_interactions.explain import Explainer, ZeroMapWarning
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer, InteractionUncertainty
from vit_interactions.explanation import Settings, class_name, make_explainer
from vit_interactions.figures import Photograph
from vit_interactions.figures.photograph import preprocessing
from vit_interactions.figures.placement import Placement
from vit_interactions.methods import has_classes
from vit_interactions.seeds import seeded

Result = TypeVar("Result")


@dataclass(frozen=True)
class Subject:
    """A model to compare under.

    Attributes:
        model: in evaluation mode on its device.
        named: whether its classes are those of timm's own weights, whose names are known.
    """

    model: nn.Module
    named: bool

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


@dataclass
class Findings:
    """The parts of a `Unit` that measuring fills; see there."""

    view: View
    values: dict[str, dict[str, float]]
    failures: list[Failure]
    arrays: dict[str, Array]


def measure(
    subject: Subject,
    photograph: Photograph,
    boxes: Sequence[ObjectBox],
    settings: Settings,
    metrics: Sequence[Metric],
    seed: int,
) -> Findings:
    """Measure one photograph.

    Args:
        subject: the model.
        photograph: from `figures.prepare`.
        boxes: around objects of any class; those of the explained class count.
        settings: methods, target ("boxes": the class of the first box), alpha and beta.
        metrics: what to measure the maps by.
        seed: of everything that is drawn; each method and metric begins with it.

    Raises:
        UnsupportedModelError: the model's patches cannot be told.
        ValueError: target "boxes" without a box that has a class.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # metrics say it where it matters
        return _Measurement(subject, photograph, boxes, settings, metrics, seed).run()


class _Measurement:
    """What the methods and metrics of one photograph share."""

    def __init__(
        self,
        subject: Subject,
        photograph: Photograph,
        boxes: Sequence[ObjectBox],
        settings: Settings,
        metrics: Sequence[Metric],
        seed: int,
    ) -> None:
        self.subject, self.model, self.device = subject, subject.model, subject.device
        self.settings, self.metrics, self.seed = settings, metrics, seed
        kind = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), photograph.input.dtype)
        self.inputs = photograph.input.unsqueeze(0).to(self.device, kind)
        layout = token_layout(self.model, (self.inputs.shape[-2], self.inputs.shape[-1]))
        self.view = see(subject, self.inputs, choose_target(settings.target, boxes), layout, photograph.placement)
        chosen = boxes_of_class(boxes, self.view.target)
        self.inside = inside_boxes(photograph, layout, chosen) if chosen else None
        self.scores: dict[tuple[str, bytes], float] = {}
        self.found = Findings(self.view, {}, [], {})

    def run(self) -> Findings:
        """Explain by each method, and measure its map by each metric."""
        for name in self.settings.methods:
            with self._written_down(name), seeded(self.seed):
                self._measure_method(name)
        return self.found

    @contextlib.contextmanager
    def _written_down(self, method: str, metric: str = "") -> Iterator[None]:
        """Write down what goes wrong, of whatever kind: methods and metrics may come from anywhere."""
        try:
            yield
        except Exception as error:
            self.found.failures.append(Failure.of(error, method, metric))

    def _measure_method(self, name: str) -> None:
        explainer = make_explainer(name, self.model, self.settings)
        forward, patch_map = self._explain(explainer)
        turned = turn(patch_map.result, explainer).detach().to("cpu", torch.float64)
        bad = int((~turned.isfinite()).sum())
        if bad:
            raise ValueError(f"the map has NaN or infinite values at {bad} of {turned.numel()} patches.")
        self.found.arrays[f"map/{name}"] = turned.numpy()
        values = {"seconds": patch_map.seconds, "forwards": patch_map.seconds / forward}
        if patch_map.peak is not None:
            values["peak_memory"] = patch_map.peak / MEGABYTE
        self.found.values[name] = values
        for metric in self.metrics:
            with self._written_down(name, metric.name), seeded(self.seed):
                score = metric.measure(self._case(name, metric), turned)
                if not isfinite(score.value):
                    raise ValueError(f"the metric gave {score.value}, which is no finite number.")
                values[metric.name] = float(score.value)
                if score.curve is not None:
                    self.found.arrays[f"curve/{metric.name}/{name}"] = score.curve.cpu().numpy()

    def _explain(self, explainer: Explainer) -> tuple[float, Measured[Tensor]]:
        """Compute a map (rows, cols), and the seconds of a forward pass just before."""
        if isinstance(explainer, InteractionExplainer):
            forward, shared = self._uncertainty
            grid = self.view.layout.grid
            own = self._measured(lambda: explainer.map_from(shared.result, self.view.layout)[0].reshape(grid))
            peaks = [peak for peak in (shared.peak, own.peak) if peak is not None]
            return forward, Measured(own.result, shared.seconds + own.seconds, max(peaks, default=None))
        target = self.view.target if explainer.class_specific else None
        return self._forward(), self._measured(lambda: explainer.patch_map(self.inputs, target)[0])

    @cached_property
    def _uncertainty(self) -> tuple[float, Measured[Tensor]]:
        """U of the photograph, which the methods of patch interactions share: the most expensive part of each."""
        forward = self._forward()
        return forward, self._measured(lambda: InteractionUncertainty(self.model).uncertainty(self.inputs))

    @torch.no_grad()
    def _forward(self) -> float:
        return self._measured(lambda: self.model(self.inputs)).seconds

    def _measured(self, call: Callable[[], Result]) -> Measured[Result]:
        return measured(call, self.device)

    def _case(self, name: str, metric: Metric) -> Case:
        """Make what a metric is given.

        Raises:
            ValueError: a metric that looks at a class's score, of a model without classes.
        """
        target = self.view.target
        if target is None:
            if "boxes" not in metric.needs:
                raise ValueError("the model has no classes, and this metric looks at the score of one.")
            target = 0  # metrics of boxes look at none

        def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
            explainer = make_explainer(name, model, self.settings)
            return turn(explainer.patch_map(inputs, target if explainer.class_specific else None), explainer)

        mean, std = self.subject.normalisation
        return Case(
            self.model,
            self.inputs,
            target,
            self.view.layout,
            mean,
            std,
            inside=self.inside,
            explain=explain,
            seed=self.seed,
            scores=self.scores,
        )


def turn(maps: Tensor, explainer: Explainer) -> Tensor:
    """Turn the maps of an explainer round where less is more relevant."""
    return maps if explainer.more_is_relevant else -maps


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


@torch.no_grad()
def see(subject: Subject, inputs: Tensor, target: int | None, layout: TokenLayout, placement: Placement) -> View:
    """Classify one image (1, channels, height, width), and say what is explained of it.

    Raises:
        ValueError: `target` is none of the model's classes, or scores are not finite.
    """
    if not has_classes(subject.model):
        return View(None, None, layout, placement)
    output = subject.model(inputs)
    scores = getattr(output, "logits", output)[0].softmax(-1).tolist()
    if not all(map(isfinite, scores)):
        raise ValueError("the model gave NaN or infinite scores.")
    if target is not None and not 0 <= target < len(scores):
        raise ValueError(f"`target` must be one of the classes 0 ... {len(scores) - 1}, but got {target}.")
    predicted = max(range(len(scores)), key=scores.__getitem__)
    prediction, explained = (
        {"index": index, "name": class_name(subject.model, index, named=subject.named), "score": scores[index]}
        for index in (predicted, predicted if target is None else target)
    )
    return View(prediction, explained, layout, placement)
