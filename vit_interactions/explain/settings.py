"""The settings of a run."""

import json
from dataclasses import dataclass, field
from typing import Any

from vit_interactions.explain import EXPLAINERS
from vit_interactions.explain.configured import ConfiguredMethod, configure
from vit_interactions.functional.responsive_field import ResponsiveField
from vit_interactions.functional.scores import Output
from vit_interactions.functional.windows import window_operations

OPEN_WINDOWS = 0.9  # fraction of all pairs above which field sizes and tendencies no longer distinguish patches


@dataclass(frozen=True)
class Settings:
    """Everything a map depends on, except the image and the model.

    Attributes:
        model: the model's name.
        checkpoint: SHA-256 of the checkpoint's bytes; None for timm's pretrained weights.
        methods: anything that `configure` takes, stored as configured methods. Unset options follow the run:
            see `Explainer.run_settings` and `Explainer.run_defaults`.
        patches: (row, col) of the patches whose interactions and similarities are drawn; empty: the figure chooses.
        alpha: fraction of all patch pairs that count as relevant.
        beta: fraction of the patches that are dropped as indiscriminative.
        exclude_sinks: leave out attention sinks in the methods that have this option.
        target: target class of class-specific methods, or "pred" for the predicted class.
        output: kind of the model's output; None: see `predictions.find_output`.
        pca: the block whose features are drawn by their principal components; None: no such figure.
        coverage: fraction of a patch's relevant patches that its window contains at least; see `adaptive_windows`.
        smooth: interpolate maps between patches in figures; see `figures.draw_map`.
    """

    model: str
    checkpoint: str | None = None
    methods: tuple[ConfiguredMethod, ...] = field(default_factory=lambda: configure(EXPLAINERS))
    patches: tuple[tuple[int, int], ...] = ()
    alpha: float = 0.10
    beta: float = 0.20
    target: int | str = "pred"
    output: Output | None = None
    pca: int | None = None
    exclude_sinks: bool = False
    coverage: float = 1.0
    smooth: bool = False

    def __post_init__(self) -> None:
        methods = tuple(self._with_defaults(method) for method in configure(self.methods))
        object.__setattr__(self, "methods", methods)

    def _with_defaults(self, method: ConfiguredMethod) -> ConfiguredMethod:
        followed = {name: getattr(self, name) for name in method.kind.run_settings}
        return method.with_defaults(**method.kind.run_defaults, **followed)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON, with a description of each method by its name."""
        described = {method.name: method.describe() for method in self.methods}
        plain: dict[str, Any] = json.loads(json.dumps({**vars(self), "methods": described}))
        return plain


def pair_fractions(fields: ResponsiveField) -> dict[str, float]:
    """Return the fractions of all patch pairs of one image that lie in its windows and in its fields."""
    pairs = fields.mask[0].numel()
    return {
        "window_fraction": int(window_operations(fields.windows)[0]) / pairs,
        "field_fraction": int(fields.operations[0]) / pairs,
    }
