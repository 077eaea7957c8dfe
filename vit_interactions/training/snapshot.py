"""Explain one image by a model that is being trained, without any effect on the training."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain import ZeroMapWarning
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.explain.interaction_uncertainty import (
    InteractionExplainer,
    Interactions,
    InteractionUncertainty,
    map_of_image,
)
from vit_interactions.explain.settings import Settings
from vit_interactions.functional.responsive_field import responsive_field
from vit_interactions.metrics.patch_map import check_finite
from vit_interactions.utilities.seeds import seeded
from vit_interactions.utilities.text import describe_error

Result = TypeVar("Result")
INTERACTIONS = "E_O"


@dataclass(frozen=True)
class Snapshot:
    """The maps and the interactions of one image at one step of a training.

    Attributes:
        layout: token layout of the model.
        maps: (rows, cols) float32 on the CPU per method that succeeded, by its name.
        operations: E_O, the patch pairs in the image's responsive fields; None if U cannot be computed.
        sinks: (patches,) bool on the CPU, the patches that are attention sinks; None if U cannot be computed.
        failed: reasons by the name of the method, or by "E_O".
    """

    layout: TokenLayout
    maps: dict[str, Tensor] = field(default_factory=dict)
    operations: int | None = None
    sinks: Tensor | None = None
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def fraction(self) -> float | None:
        """E_O relative to all patch pairs; None if unknown."""
        return None if self.operations is None else self.operations / self.layout.patches**2

    @property
    def sink_count(self) -> int | None:
        """Number of patches that are attention sinks; None if unknown."""
        return None if self.sinks is None else int(self.sinks.sum())


def take_snapshot(model: nn.Module, inputs: Tensor, settings: Settings) -> Snapshot:
    """Explain one image in evaluation mode, in the precision of the weights.

    The model keeps its mode, gradients and buffers, and the global random generators do not advance. Autocast is
    off, so that a map does not depend on the place in the training loop.

    Args:
        model: any model, in any mode; compiled and (Distributed)DataParallel models are unwrapped.
        inputs: (1, channels, height, width), moved to the model's device and dtype.
        settings: methods, target, and the options of the responsive fields that E_O counts.

    Raises:
        UnsupportedModelError: a model that cannot be run. Methods that fail are listed in `failed`.
        ValueError: weights that are not finite.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit").train()
        >>> found = take_snapshot(model, torch.zeros(1, 3, 160, 160), Settings("vit", methods=("gmar",), alpha=0.0))
        >>> found.maps["gmar"].shape, found.operations, model.training
        (torch.Size([10, 10]), 100, True)
    """
    weight = next((each for each in model.parameters() if each.is_floating_point()), inputs)
    inputs = inputs.to(weight.device, weight.dtype)
    failed: dict[str, str] = {}

    def attempt(name: str, call: Callable[[], Result]) -> Result | None:
        try:
            with seeded(0):  # custom methods may draw from the global generators
                return call()
        # Custom methods may raise anything, and none of it may end the training.
        except Exception as error:
            failed[name] = describe_error(error)
            return None

    with torch.autocast(inputs.device.type, enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # a model at the start of its training has such maps
        with seeded(0):
            layout = image_layout(model, (inputs.shape[-2], inputs.shape[-1]))
        interactions = attempt(INTERACTIONS, lambda: InteractionUncertainty(model).interactions(inputs))
        operations = sinks = None
        if interactions is not None:
            explainer = InteractionUncertainty(model, settings.exclude_sinks)
            uncertainty, _, exclude = explainer.selected(interactions)
            fields = responsive_field(
                uncertainty,
                layout.grid,
                settings.alpha,
                settings.beta,
                coverage=settings.coverage,
                exclude=exclude,
            )
            operations = int(fields.operations[0])
            sinks = interactions.sinks.patches[0].cpu()
        maps = {}
        for method in settings.methods:
            if issubclass(method.kind, InteractionExplainer) and interactions is None:
                failed[method.name] = failed[INTERACTIONS]
                continue
            values = attempt(method.name, partial(_map, method, model, inputs, settings, interactions))
            if values is not None:
                maps[method.name] = values
    return Snapshot(layout, maps, operations, sinks, failed)


def _map(
    method: ConfiguredMethod,
    model: nn.Module,
    inputs: Tensor,
    settings: Settings,
    interactions: Interactions | None,
) -> Tensor:
    found = map_of_image(method.create(model), inputs, settings.target, interactions).detach().float().cpu()
    check_finite(found)
    return found
