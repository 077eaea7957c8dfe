"""The maps of a batch of photographs by each method, and what they cost."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.compare.cost import Measured, measured
from vit_interactions.compare.units import Failure
from vit_interactions.explain import Explainer, ZeroMapWarning
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer, InteractionUncertainty
from vit_interactions.explain.responsive_field_size import FieldExplainer
from vit_interactions.explain.settings import Settings
from vit_interactions.functional.windows import adaptive_windows, window_operations
from vit_interactions.utilities.seeds import seeded

Result = TypeVar("Result")


@dataclass(frozen=True)
class FoundMap:
    """A map and its share in what its batch cost.

    Attributes:
        values: (rows, cols) float64 on the CPU, more = more relevant.
        seconds: of the batch, divided by its photographs.
        forwards: the same in forward passes of the batch.
        peak: bytes that the whole batch needed at most beyond what was held; None where this cannot be told.
    """

    values: Tensor
    seconds: float
    forwards: float
    peak: int | None


@dataclass(frozen=True)
class Maps:
    """What the methods found in one photograph.

    Attributes:
        by_method: the map, or why there is none.
        window_share: the share of all pairs that the adaptive windows hold, where a method uses their fields.
    """

    by_method: dict[str, FoundMap | Failure]
    window_share: float | None


def explain_batch(
    model: nn.Module, inputs: Tensor, targets: Sequence[int | None], layout: TokenLayout, settings: Settings
) -> list[Maps]:
    """Explain photographs at once; what fails, one by one.

    Args:
        model: in evaluation mode.
        inputs: (batch, channels, height, width) on the model's device.
        targets: the class that is explained of each; None of all for a model without classes.
        layout: of the model's patches.
        settings: methods, alpha and beta.

    Returns:
        What was found in each.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit", num_classes=5)
        >>> layout = TokenLayout(prefix=1, rows=10, cols=10, readout="token", extent=(160, 160))
        >>> settings = Settings("test_vit", methods=("gmar",))
        >>> first, second = explain_batch(model, torch.zeros(2, 3, 160, 160), [0, 3], layout, settings)
        >>> second.by_method["gmar"].values.shape
        torch.Size([10, 10])
    """
    batch = _Batch(model, inputs, targets, layout, settings)
    maps = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # metrics say it where it matters
        for method in settings.methods:
            with seeded(0):  # whatever the others drew
                maps[method.name] = batch.explain(method)
        # Methods with an alpha of their own have other windows, of which nothing is said.
        fields = any(
            issubclass(each.kind, FieldExplainer) and each.options.get("alpha") == settings.alpha
            for each in settings.methods
        )
        shares = batch.window_shares() if fields else [None] * len(inputs)
    return [
        Maps({name: found[number] for name, found in maps.items()}, share) for number, share in enumerate(shares)
    ]


def warm_up(
    model: nn.Module, inputs: Tensor, targets: Sequence[int | None], layout: TokenLayout, settings: Settings
) -> None:
    """Explain once for nothing, so that no map's time holds the loading of libraries; arguments as `explain_batch`."""
    explain_batch(model, inputs[:1], targets[:1], layout, settings)


class _Batch:
    """What the methods of photographs that are explained at once share."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Sequence[int | None],
        layout: TokenLayout,
        settings: Settings,
    ) -> None:
        self.model, self.inputs, self.layout, self.settings = model, inputs, layout, settings
        self.targets = list(targets)

    def explain(self, method: ConfiguredMethod) -> list[FoundMap | Failure]:
        """Explain each photograph, or say why it has no map."""
        return self._each(lambda part: part._explain(method), lambda error: Failure.of(error, method.name))

    def window_shares(self) -> list[float | None]:
        """Compute the share of all pairs that the adaptive windows of each photograph hold; None where U fails."""
        return self._each(lambda part: part._window_shares(), lambda error: None)

    def _each(
        self, call: "Callable[[_Batch], list[Result]]", failed: Callable[[Exception], Result]
    ) -> list[Result]:
        """Call for all photographs at once, or if that fails for one after the other."""
        try:
            return call(self)
        # Methods may come from anywhere; what one photograph breaks is not to cost the others theirs.
        except Exception as error:
            lost = failed(error)
        # Out of the handler, where the error's traceback would keep what the call had allocated.
        return [lost] if len(self.inputs) == 1 else [part._each(call, failed)[0] for part in self._singles]

    @cached_property
    def _singles(self) -> "list[_Batch]":
        parts = zip(self.inputs, self.targets, strict=True)
        return [_Batch(self.model, image[None], [target], self.layout, self.settings) for image, target in parts]

    def _explain(self, method: ConfiguredMethod) -> list[FoundMap | Failure]:
        explainer = method.create(self.model)
        forward, found = self._cost_and_maps(explainer)
        maps = turn(found.result, explainer).detach().to("cpu", torch.float64)
        seconds = found.seconds / len(maps)
        return [
            FoundMap(each, seconds, found.seconds / forward, found.peak)
            if each.isfinite().all()
            else Failure.of(_not_finite(each), method.name)
            for each in maps
        ]

    def _cost_and_maps(self, explainer: Explainer) -> tuple[float, Measured[Tensor]]:
        """Compute maps (batch, rows, cols), and the seconds of a forward pass just before."""
        if isinstance(explainer, InteractionExplainer):
            forward, shared = self._uncertainty
            own = self._measured(lambda: explainer.map_from(shared.result, self.layout))
            peaks = [peak for peak in (shared.peak, own.peak) if peak is not None]
            maps = own.result.reshape(-1, *self.layout.grid)
            return forward, Measured(maps, shared.seconds + own.seconds, max(peaks, default=None))
        targets: list[int | None] | None = self.targets
        if not explainer.class_specific or None in self.targets:
            targets = None
        return self._forward(), self._measured(lambda: explainer.patch_map(self.inputs, targets))

    @cached_property
    def _uncertainty(self) -> tuple[float, Measured[Tensor]]:
        """U, which the methods of patch interactions share: the most expensive part of each."""
        forward = self._forward()
        return forward, self._measured(lambda: InteractionUncertainty(self.model).uncertainty(self.inputs))

    def _window_shares(self) -> list[float | None]:
        _, shared = self._uncertainty
        windows = adaptive_windows(shared.result, self.layout.grid, self.settings.alpha)
        operations: list[int] = window_operations(windows).tolist()
        return [count / self.layout.patches**2 for count in operations]

    @torch.no_grad()
    def _forward(self) -> float:
        return self._measured(lambda: self.model(self.inputs)).seconds

    def _measured(self, call: Callable[[], Result]) -> Measured[Result]:
        return measured(call, self.inputs.device)


def _not_finite(values: Tensor) -> ValueError:
    bad = int((~values.isfinite()).sum())
    return ValueError(f"the map has NaN or infinite values at {bad} of {values.numel()} patches.")


def turn(maps: Tensor, explainer: Explainer) -> Tensor:
    """Turn the maps of an explainer round where less is more relevant."""
    return maps if explainer.more_is_relevant else -maps
