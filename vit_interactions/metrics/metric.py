"""A metric, its input (a case and a map) and its output (a score)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.functional.scores import Output, check_output, class_outputs
from vit_interactions.loading.predictions import find_output

Explain = Callable[[nn.Module, Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """One image, model and method: everything that a metric may need besides the map.

    Attributes:
        model: the classifier; it is not modified.
        inputs: (1, channels, height, width), normalized, on the model's device.
        target: index of the target class.
        layout: position of the patches.
        mean: mean of the normalization, one number per channel.
        std: standard deviation of the normalization, one number per channel.
        inside: (rows, cols) bool, the patches on the object; None if unknown.
        explain: maps model, inputs (batch, channels, height, width) and target to maps (batch, rows, cols), higher is
            more relevant; None if the method cannot be run again.
        seed: random seed of everything that the metric draws.
        scores: cache of the scores of perturbed images. Pass the same dict to all cases of one image, model, target and
            output, so that methods share it.
        output: kind of the model's output, see `functional.scores.class_scores`; None: see `link`.
        complete: whether the method claims completeness, see `Explainer.complete`.
    """

    model: nn.Module
    inputs: Tensor
    target: int
    layout: TokenLayout
    mean: tuple[float, ...]
    std: tuple[float, ...]
    inside: Tensor | None = None
    explain: Explain | None = None
    seed: int = 0
    scores: dict[tuple[str, bytes], float] = field(default_factory=dict, repr=False)
    output: Output | None = None
    complete: bool = False

    def __post_init__(self) -> None:
        """Check the shapes and the output."""
        check_output("output", self.output)
        if self.inputs.ndim != 4 or len(self.inputs) != 1:
            raise ValueError(
                f"`inputs` must have shape (1, channels, height, width), got {tuple(self.inputs.shape)}."
            )
        channels = self.inputs.shape[1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ValueError(f"`{name}` must have {channels} numbers, one per channel, got {len(values)}.")
        if self.inside is not None and tuple(self.inside.shape) != self.layout.grid:
            raise ValueError(f"`inside` must have shape {self.layout.grid}, got {tuple(self.inside.shape)}.")

    @cached_property
    def link(self) -> Output:
        """Return `output`, or the kind that `predictions.find_output` infers from the whole image.

        Raises:
            ValueError: an output that may or may not be probabilities.
        """
        if self.output is not None:
            return self.output
        with torch.no_grad(), evaluation_mode(self.model) as own:
            outputs = class_outputs(own(self.inputs), len(self.inputs))
        found = find_output(self.model, self.inputs, outputs)
        if found is None:
            raise ValueError(
                "`output` must be given for this model: its outputs lie in [0, 1] but do not sum to 1, so they may or "
                "may not be probabilities. Set output='probabilities', 'softmax', 'sigmoid' or 'value' (--output on "
                "the command line)."
            )
        return found

    def require_probability(self, metric: str) -> None:
        """Raise ValueError for a regression model, whose output is not a probability."""
        if self.link == "value":
            raise ValueError(
                f"{metric} needs the probability of a class, but the model's output is a value (regression). Use "
                "insertion, deletion or abpc. If the output is a logit or a probability, set `output`."
            )


@dataclass(frozen=True, eq=False)
class Score:
    """The result of a metric for one map.

    Attributes:
        value: the value.
        curve: (points, 2) float64 of (fraction, score), if the metric has a curve.
    """

    value: float
    curve: Tensor | None = None


@dataclass(frozen=True)
class Metric:
    """A measure of how good a map is.

    Attributes:
        name: name in tables.
        direction: which values are better; "none" if neither.
        range: (lowest, highest) possible value if scores are probabilities.
        source: the paper.
        parameters: all settings that change the value (numbers, strings, and lists of them). Reports show them, and a
            run is resumed only if they are the same.
        needs: "object" if `Case.inside` must be given, "explain" if `Case.explain` must, "complete" if
            `Case.complete` must be true.
        cost: description of the cost of one map.
        measure: maps a case and a map (rows, cols), higher is more relevant, to the score; raises ValueError with the
            reason if the score is not defined for this map.
    """

    name: str
    direction: Literal["higher", "lower", "none"]
    range: tuple[float, float]
    source: str
    parameters: dict[str, Any]
    needs: frozenset[str]
    cost: str
    measure: Callable[[Case, Tensor], Score]
