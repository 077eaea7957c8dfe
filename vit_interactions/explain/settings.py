"""What explainers are configured with, and explainers made from it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from vit_interactions.explain import EXPLAINERS, DynamicAccumulatedAttention, Explainer
from vit_interactions.explain.registry import find_method
from vit_interactions.explain.responsive_field_size import FieldExplainer
from vit_interactions.functional.responsive_field import ResponsiveField
from vit_interactions.functional.scores import Output
from vit_interactions.functional.windows import window_operations

OPEN_WINDOWS = 0.9  # share of all pairs above which sizes and tendencies of fields no longer tell patches apart


@dataclass(frozen=True)
class Settings:
    """What an explanation depends on beside the photograph.

    Attributes:
        model: the model's name.
        checkpoint: SHA-256 of the checkpoint's bytes; None for the weights that timm knows.
        methods: names that `methods.find_method` knows.
        patches: (row, col) of the patches whose interactions are drawn; empty for a choice by the figure.
        alpha: share of all patch pairs that count as relevant.
        beta: share of the patches that are dropped as indiscriminative.
        target: the class that class-specific methods explain, or "pred" for that of the highest score.
        output: what the model's output is; None: see `predictions.find_output`.
    """

    model: str
    checkpoint: str | None = None
    methods: tuple[str, ...] = tuple(EXPLAINERS)
    patches: tuple[tuple[int, int], ...] = ()
    alpha: float = 0.10
    beta: float = 0.20
    target: int | str = "pred"
    output: Output | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def pair_shares(fields: ResponsiveField) -> dict[str, float]:
    """Return the shares of all patch pairs of one image that its windows and its fields hold."""
    pairs = fields.mask[0].numel()
    return {
        "window_share": int(window_operations(fields.windows)[0]) / pairs,
        "field_share": int(fields.operations[0]) / pairs,
    }


def make_explainer(name: str, model: nn.Module, settings: Settings) -> Explainer:
    """Create a method for a model with the settings that it has."""
    method = find_method(name)
    if issubclass(method, FieldExplainer):
        return method(model, alpha=settings.alpha, beta=settings.beta)
    if issubclass(method, DynamicAccumulatedAttention):
        return method(model, readout="model")  # the class token where it is read, else what is
    return method(model)
