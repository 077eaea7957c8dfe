"""What a metric is, what it is given, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout

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
        scores: probabilities of perturbed images, filled as they are computed, so that no metric asks the model
            again. Give the cases of one photograph, model and target the same dict to share them among methods.
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

    def __post_init__(self) -> None:
        """Check the shapes."""
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
        range: (lowest, highest) possible value.
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
