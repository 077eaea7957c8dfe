"""Maps of a batch of images by each method, and what they cost."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.compare.cost import MEGABYTE, Measured, Returned, measured
from vit_interactions.compare.records import Failure, Record
from vit_interactions.explain import Explainer, ZeroMapWarning
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.explain.interaction_uncertainty import (
    InteractionExplainer,
    Interactions,
    InteractionUncertainty,
)
from vit_interactions.explain.responsive_field_size import FieldExplainer
from vit_interactions.explain.settings import Settings
from vit_interactions.functional.windows import window_operations
from vit_interactions.metrics.patch_map import check_finite
from vit_interactions.utilities.seeds import seeded


def explain_batch(
    model: nn.Module, inputs: Tensor, records: Sequence[Record], layout: TokenLayout, settings: Settings
) -> None:
    """Compute the maps of a batch, and write maps, costs, failures and window fractions into the records.

    A method that fails on the batch is run image by image.

    Args:
        model: in evaluation mode.
        inputs: (batch, channels, height, width) on the model's device.
        records: of the images, which know the class to explain.
        layout: of the model's patches.
        settings: methods, alpha and beta.

    Example:
        >>> import timm
        >>> from vit_interactions.loading.predictions import Prediction
        >>> model = timm.create_model("test_vit", num_classes=5)
        >>> layout = TokenLayout(prefix=1, rows=10, cols=10, readout="token", extent=(160, 160))
        >>> records = [Record({}, target_class=Prediction(index, None, 0.5)) for index in (0, 3)]
        >>> explain_batch(model, torch.zeros(2, 3, 160, 160), records, layout, Settings("vit", methods=("gmar",)))
        >>> records[1].maps["gmar"].shape
        (10, 10)
    """
    batch = _Batch(model, inputs, records, layout, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # metrics fail with the reason
        for method in settings.methods:
            with seeded(0):  # so that a map does not depend on which other methods run
                batch.explain(method)
        for method in [method for method in settings.methods if has_run_windows(method, settings)][:1]:
            batch.find_window_fractions(method)


def warm_up(model: nn.Module, inputs: Tensor, record: Record, layout: TokenLayout, settings: Settings) -> None:
    """Run one untimed pass of each method, so that lazy imports do not distort the timings."""
    explain_batch(model, inputs, [replace(record, maps={}, values={}, failures=[])], layout, settings)


@dataclass(eq=False)
class _Batch:
    """Images that are explained at once, with the intermediate results that methods share."""

    model: nn.Module
    inputs: Tensor
    records: Sequence[Record]
    layout: TokenLayout
    settings: Settings

    def explain(self, method: ConfiguredMethod) -> None:
        """Write the map of each image into its record, or the reason why there is none."""
        self._each(
            lambda part: part._explain(method),
            lambda record, error: record.failures.append(Failure.of(error, method.name)),
        )

    def find_window_fractions(self, method: ConfiguredMethod) -> None:
        """Write the fraction of pairs inside a method's adaptive windows into each record, unless U fails."""
        self._each(lambda part: part._find_window_fractions(method), lambda record, error: None)

    def _each(self, call: "Callable[[_Batch], None]", failed: Callable[[Record, Exception], None]) -> None:
        """Make a call for the whole batch; if it fails, make it for each image separately."""
        try:
            return call(self)
        # Custom methods may raise anything. A failure of one image must not affect the others.
        except Exception as error:
            if len(self.records) == 1:
                return failed(self.records[0], error)
        # Outside the handler, because the traceback keeps the memory of the failed call alive.
        for part in self._singles:
            part._each(call, failed)
        return None

    @cached_property
    def _singles(self) -> "list[_Batch]":
        parts = zip(self.inputs, self.records, strict=True)
        return [replace(self, inputs=image[None], records=[record]) for image, record in parts]

    def _explain(self, method: ConfiguredMethod) -> None:
        explainer = method.create(self.model)
        forward, found = self._cost_and_maps(explainer)
        maps = as_relevance(found.result, explainer).detach().to("cpu", torch.float64)
        costs = {"seconds": found.seconds / len(maps), "forwards": found.seconds / forward}
        if found.peak is not None:
            costs["peak_memory"] = found.peak / MEGABYTE
        for record, values in zip(self.records, maps, strict=True):
            try:
                check_finite(values)
            except ValueError as error:
                record.failures.append(Failure.of(error, method.name))
            else:
                record.maps[method.name] = values.numpy()
                record.values[method.name] = dict(costs)

    def _cost_and_maps(self, explainer: Explainer) -> tuple[float, Measured[Tensor]]:
        """Compute maps (batch, rows, cols), and the seconds of a forward pass just before."""
        if isinstance(explainer, InteractionExplainer):
            forward, shared = self._uncertainty
            own = self._measured(lambda: explainer.map_of(shared.result))
            for record, count in zip(self.records, shared.result.sinks.patches.sum(-1).tolist(), strict=True):
                record.sink_patches = count
            peaks = [peak for peak in (shared.peak, own.peak) if peak is not None]
            maps = own.result.reshape(-1, *self.layout.grid)
            return forward, Measured(maps, shared.seconds + own.seconds, max(peaks, default=None))
        targets = [record.target for record in self.records]
        chosen = targets if explainer.class_specific and None not in targets else None
        return self._forward(), self._measured(lambda: explainer.patch_map(self.inputs, chosen))

    @cached_property
    def _uncertainty(self) -> tuple[float, Measured[Interactions]]:
        """U, the most expensive part of the patch interaction methods, computed once for all of them."""
        forward = self._forward()
        return forward, self._measured(lambda: InteractionUncertainty(self.model).interactions(self.inputs))

    def _find_window_fractions(self, method: ConfiguredMethod) -> None:
        _, shared = self._uncertainty
        explainer = method.create(self.model)
        assert isinstance(explainer, FieldExplainer)  # by `has_run_windows`
        windows = explainer.field_from(*explainer.selected(shared.result)).windows
        for record, pairs in zip(self.records, window_operations(windows).tolist(), strict=True):
            record.window_fraction = pairs / self.layout.patches**2

    @torch.no_grad()
    def _forward(self) -> float:
        return self._measured(lambda: self.model(self.inputs)).seconds

    def _measured(self, call: Callable[[], Returned]) -> Measured[Returned]:
        return measured(call, self.inputs.device)


def has_run_windows(method: ConfiguredMethod, settings: Settings) -> bool:
    """Check whether a method has adaptive windows, and those of the run.

    A method may set its own options. Windows depend on all of them except `beta`, which drops patches afterwards.

    Example:
        >>> from vit_interactions.explain.configured import parse_method
        >>> names = ["responsive_field_size:beta=0.5", "responsive_field_size:exclude_sinks=true", "gmar"]
        >>> settings = Settings("vit", methods=tuple(map(parse_method, names)))
        >>> [has_run_windows(method, settings) for method in settings.methods]
        [True, False, False]
    """
    return issubclass(method.kind, FieldExplainer) and all(
        method.options.get(name) == getattr(settings, name) for name in method.kind.run_settings if name != "beta"
    )


def as_relevance(maps: Tensor, explainer: Explainer) -> Tensor:
    """Negate the maps of explainers for which lower is more relevant."""
    return maps if explainer.more_is_relevant else -maps
