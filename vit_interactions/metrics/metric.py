"""What a metric is, what it is given, and what it gives."""

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
    """One photograph, one model, one method: all that a metric may need beside the map.

    Attributes:
        model: the classifier; borrowed, and given back as it was.
        inputs: (1, channels, height, width), normalised, on the model's device.
        target: the class that was explained.
        layout: where the patches are.
        inside: (rows, cols) bool, the patches on the object; None where it is not known.
        explain: model, inputs (batch, channels, height, width) and target to maps (batch, rows, cols), more = more
            relevant; None where the method cannot be run again.
        mean: of the normalisation, one number a channel.
        std: of the normalisation, one number a channel.
        seed: of everything that is drawn.
        scores: of perturbed images, filled as they are computed, so that no metric asks the model again. Give the cases
            of one photograph, model, target and output the same dict to share them among methods.
        output: what the model's output is, see `functional.scores.class_scores`; None: see `link`.
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

    def __post_init__(self) -> None:
        """Check the shapes and the output."""
        check_output("output", self.output)
        if self.inputs.ndim != 4 or len(self.inputs) != 1:
            raise ValueError(
                f"`inputs` must have shape (1, channels, height, width), but got {tuple(self.inputs.shape)}."
            )
        channels = self.inputs.shape[1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ValueError(f"`{name}` must have {channels} numbers, one a channel, but got {len(values)}.")
        if self.inside is not None and tuple(self.inside.shape) != self.layout.grid:
            raise ValueError(f"`inside` must have shape {self.layout.grid}, but got {tuple(self.inside.shape)}.")

    @cached_property
    def link(self) -> Output:
        """Return `output`, or what `predictions.find_output` finds in the model and its output for the whole image.

        Raises:
            ValueError: an output of which it cannot be told whether it holds probabilities.
        """
        if self.output is not None:
            return self.output
        with torch.no_grad(), evaluation_mode(self.model) as own:
            outputs = class_outputs(own(self.inputs), len(self.inputs))
        found = find_output(self.model, self.inputs, outputs)
        if found is None:
            raise ValueError(
                "`output` must be given for this model: its outputs lie in [0, 1] but do not sum to 1, and may be "
                "probabilities or not. Give output='probabilities', 'softmax', 'sigmoid' or 'value' (--output on the "
                "command line)."
            )
        return found

    def require_probability(self, metric: str) -> None:
        """Raise ValueError for a model whose scores are values of a regression, which a metric cannot use."""
        if self.link == "value":
            raise ValueError(
                f"{metric} needs the probability of a class, but the model's output is a value (regression). Use "
                "insertion, deletion or abpc. If the output is a logit or a probability, say so by `output`."
            )


@dataclass(frozen=True, eq=False)
class Score:
    """What a metric says of one map.

    Attributes:
        value: the number.
        curve: (points, 2) float64 of (fraction, score) for metrics that have a curve.
    """

    value: float
    curve: Tensor | None = None


@dataclass(frozen=True)
class Metric:
    """A number that says how good a map is.

    Attributes:
        name: what tables call it.
        direction: which values are better; "none" where neither is.
        range: (lowest, highest) possible value, where scores are probabilities.
        source: the paper.
        parameters: every setting that changes the value, for reports and to tell on resuming whether it is the same
            metric: numbers, texts, and lists of them.
        needs: "object" where `Case.inside` must be given, "explain" where `Case.explain` must.
        cost: in words, for one map.
        measure: case and map (rows, cols), more = more relevant, to the score; raises ValueError with the reason where
            the score of this map is not defined.
    """

    name: str
    direction: Literal["higher", "lower", "none"]
    range: tuple[float, float]
    source: str
    parameters: dict[str, Any]
    needs: frozenset[str]
    cost: str
    measure: Callable[[Case, Tensor], Score]
