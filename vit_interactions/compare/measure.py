"""Measure one photograph under one model: all methods' maps, by all metrics, and what they cost.

What goes wrong in one method or metric is written down, and is that one's alone.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import transforms

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import token_layout
from vit_interactions.compare.boxes import ObjectBox, boxes_of_class, inside_boxes
from vit_interactions.compare.cost import MEGABYTE, Measured, measured
from vit_interactions.compare.metrics import Case, Metric
from vit_interactions.compare.units import Array, Failure
from vit_interactions.explain import Explainer, ZeroMapWarning
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer, InteractionUncertainty
from vit_interactions.explanation import Settings, class_name, has_classes, make_explainer, predict
from vit_interactions.figures import Photograph
from vit_interactions.figures.photograph import preprocessing
from vit_interactions.training.seeds import seeded


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
            raise ValueError("`model` must normalise its input by a mean and a standard deviation, but it does not.")
        mean, std = (tuple(torch.as_tensor(values).flatten().tolist()) for values in (step.mean, step.std))
        return mean, std

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device


@dataclass
class Findings:
    """The parts of a `Unit` that measuring fills; see there."""

    view: dict[str, Any]
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
        self.inputs = photograph.input.unsqueeze(0).to(self.device)
        self.layout = token_layout(self.model, (self.inputs.shape[-2], self.inputs.shape[-1]))
        self.prediction = predict(self.model, self.inputs, named=subject.named)
        self.target = self._choose_target(boxes)
        chosen = boxes_of_class(boxes, self.target)
        self.inside = inside_boxes(photograph, self.layout, chosen) if chosen else None
        self.scores: dict[tuple[str, bytes], float] = {}
        self.placement = photograph.placement
        self.found = Findings(self._view(), {}, [], {})

    def run(self) -> Findings:
        """Explain by each method, and measure its map by each metric."""
        for name in self.settings.methods:
            with self._written_down(name), seeded(self.seed):
                self._measure_method(name)
        return self.found

    def _measure_method(self, name: str) -> None:
        explainer = make_explainer(name, self.model, self.settings)
        patch_map, forward = self._explain(explainer)
        turned = _turn(patch_map.result, type(explainer)).detach().to("cpu", torch.float64)
        self.found.arrays[f"map/{name}"] = turned.numpy()
        values = self.found.values[name] = {
            "seconds": patch_map.seconds,
            "forwards": patch_map.seconds / forward,
        }
        if patch_map.peak is not None:
            values["peak_memory"] = patch_map.peak / MEGABYTE
        for metric in self.metrics:
            with self._written_down(name, metric.name), seeded(self.seed):
                score = metric.measure(self._case(name, metric), turned)
                if not torch.isfinite(torch.tensor(score.value)):
                    raise ValueError(f"the metric gave {score.value}.")
                values[metric.name] = float(score.value)
                if score.curve is not None:
                    self.found.arrays[f"curve/{metric.name}/{name}"] = score.curve.cpu().numpy()
...
