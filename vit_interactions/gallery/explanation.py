"""Compute the maps of the chosen methods for one image, and draw them.

If a method fails, the maps of the others are kept.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.layout import Readout, TokenLayout
from vit_interactions.explain import DynamicAccumulatedAttention, ZeroMapWarning, attention_sinks
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.explain.interaction_uncertainty import (
    InteractionExplainer,
    Interactions,
    InteractionUncertainty,
    map_of_image,
    patch_index,
)
from vit_interactions.explain.patch_features import patch_features
from vit_interactions.explain.patch_similarity import PatchSimilarity
from vit_interactions.explain.responsive_field_size import FieldExplainer, ResponsiveFieldSize
from vit_interactions.explain.settings import OPEN_WINDOWS, Settings, pair_fractions
from vit_interactions.figures import (
    PreparedImage,
    choose_patches,
    field_figure,
    frames_figure,
    indiscriminative_figure,
    interaction_figure,
    map_figure,
    pca_figure,
    save_animation,
    similarity_figure,
    windows_figure,
)
from vit_interactions.figures.tendency import size_scale
from vit_interactions.functional.accumulated_attention import display_frames
from vit_interactions.functional.feature_pca import component_colors, principal_components
from vit_interactions.functional.responsive_field import responsive_field
from vit_interactions.loading.predictions import Prediction, class_label, class_name, predict
from vit_interactions.models import WindowFreeAttention, record_windows
from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.names import unique_names
from vit_interactions.utilities.text import describe_error

ZERO_NOTE = ". The map is zero everywhere"
OPEN_NOTE = (
    ". Windows cover almost the whole image, so field sizes and tendencies reflect patch position, not content. "
    "Choose a smaller α"
)
READ_FROM: dict[Readout, str] = {
    "distilled": "class and distillation token",
    "avg": "mean of the tokens",
    "map": "pooling head",
    "token_avg": "class token and patches",
}


@dataclass
class Explanation:
    """The maps and figures of one image.

    Attributes:
        arrays: raw maps by method name, and the tensors of the patch interactions by name.
        figures: figures by file name without extension.
        facts: further entries of the manifest: prediction, layout, model input on the image, window sizes, and the
            reasons of methods that the model does not support ("unsupported") or that failed ("failed").
        animations: functions that write an animation to a file, by file name.
        readouts: readout of the model, for methods that are published for a class token only.
    """

    arrays: dict[str, Array] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    animations: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    readouts: dict[str, Readout] = field(default_factory=dict)

    def include(self, part: "Explanation") -> None:
        """Add everything in another explanation of the same image."""
        for each in fields(self):
            getattr(self, each.name).update(getattr(part, each.name))


class _Task(NamedTuple):
    """Arguments that are the same for all methods of one image."""

    model: nn.Module
    prepared: PreparedImage
    settings: Settings
    inputs: Tensor
    layout: TokenLayout
    prediction: Prediction | None
    target: str


def explain_image(model: nn.Module, prepared: PreparedImage, settings: Settings) -> Explanation:
    """Explain one image with all methods in the settings.

    Args:
        model: the model, in evaluation mode on its device.
        prepared: the image, from `figures.prepare`.
        settings: methods and their options.

    Raises:
        UnsupportedModelError: the model's attention cannot be read, or no method supports the model. Methods that do
            not, while others do, are listed in `facts["unsupported"]`.
        ValueError: a patch is outside the grid, or all methods failed. If only some failed, they are listed in
            `facts["failed"]`.
    """
    inputs = prepared.input.unsqueeze(0).to(next(model.parameters()).device)
    layout = image_layout(model, inputs)
    for patch in settings.patches:
        patch_index(patch, layout)
    named = settings.checkpoint is None
    prediction = predict(model, inputs, named=named, output=settings.output)
    chosen = settings.target
    target = class_label(chosen, class_name(model, chosen, named=named)) if isinstance(chosen, int) else ""
    task = _Task(model, prepared, settings, inputs, layout, prediction, target)
    explanation = Explanation(
        facts={
            "prediction": None if prediction is None else asdict(prediction),
            "image_size": list(prepared.image.size),
            "seen_box": list(prepared.box_of_extent(layout.extent)),
            "layout": asdict(layout),
        }
    )
    unsupported: dict[str, str] = {}
    failed: dict[str, str] = {}
    found: Interactions | None = None
    interactions = [each.name for each in settings.methods if issubclass(each.kind, InteractionExplainer)]
    if interactions:
        with _collected(interactions, unsupported, failed):
            # U is expensive, and shared by these methods.
            found = InteractionUncertainty(model).interactions(inputs)
            explanation.include(_interactions(task, found))
    sinks = _sinks(task, found)
    if sinks is not None:
        places = sinks.reshape(layout.grid).nonzero().tolist()
        explanation.facts["attention_sinks"] = {"patches": places, "excluded": settings.exclude_sinks}
    names = [method.name for method in settings.methods]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # the titles report it
        for method, file_name in zip(settings.methods, unique_names(names), strict=True):
            if method.name not in unsupported and method.name not in failed:
                with _collected([method.name], unsupported, failed):
                    explanation.include(_explain_by(method, file_name, task, found, sinks))
    if settings.pca is not None:
        with _collected(["pca"], unsupported, failed):
            explanation.include(_components(task, settings.pca))
    explained = [name for name in names if name not in unsupported and name not in failed]
    if not explained:
        reasons = "; ".join(dict.fromkeys([*unsupported.values(), *failed.values()]))
        raise ValueError(reasons) if failed else UnsupportedModelError(reasons)
    zero_maps = [name for name in explained if not explanation.arrays[name].any()]
    explanation.facts.update(
        unsupported=unsupported, failed=failed, zero_maps=zero_maps, readouts=explanation.readouts
    )
    return explanation


@contextlib.contextmanager
def _collected(names: Sequence[str], unsupported: dict[str, str], failed: dict[str, str]) -> Iterator[None]:
    """Record an error of the named methods instead of raising it."""
    try:
        yield
    except UnsupportedModelError as error:
        unsupported.update(dict.fromkeys(names, str(error)))
    except (ValueError, RuntimeError, IndexError) as error:
        failed.update(dict.fromkeys(names, describe_error(error)))


def _sinks(task: _Task, found: Interactions | None) -> Tensor | None:
    """Return the patches that are attention sinks, (patches,) bool; None if no method or model has attention."""
    if found is not None:
        return found.sinks.patches[0]
    if any(method.kind.needs_attention for method in task.settings.methods):
        with contextlib.suppress(UnsupportedModelError, ValueError, RuntimeError):
            return attention_sinks(task.model, task.inputs).patches[0]
    return None


def _explain_by(
    method: ConfiguredMethod, file_name: str, task: _Task, found: Interactions | None, sinks: Tensor | None
) -> Explanation:
    """Compute and draw the map of one method."""
    prepared, settings, layout = task.prepared, task.settings, task.layout
    explainer = method.create(task.model)
    patch_map = map_of_image(explainer, task.inputs, settings.target, found)
    part = Explanation({method.name: patch_map.cpu().numpy()})
    title = method.name
    if isinstance(explainer, DynamicAccumulatedAttention):
        part.readouts[method.name] = layout.readout
        title += f", read from the {READ_FROM[layout.readout]}" if layout.readout in READ_FROM else ""
    if explainer.class_specific and task.target:
        title += f", {task.target}"
    title += "" if task.prediction is None else f" (predicted: {task.prediction})"
    if isinstance(explainer, FieldExplainer) and found is not None:
        title += _open_note(pair_fractions(explainer.field_from(*explainer.selected(found))))
    title += "" if patch_map.any() else ZERO_NOTE
    part.figures[file_name] = map_figure(
        prepared,
        patch_map,
        layout,
        title=title,
        label=explainer.quantity,
        more_is_relevant=explainer.more_is_relevant,
        norm=size_scale(layout) if isinstance(explainer, ResponsiveFieldSize) else None,
        sinks=sinks,
        smooth=settings.smooth,
    )
    if isinstance(explainer, PatchSimilarity):
        patches = list(settings.patches) or None
        part.figures[f"{file_name}_patches"] = similarity_figure(
            prepared, explainer.similarity(task.inputs)[0], layout, patches, title=title
        )
    if isinstance(explainer, DynamicAccumulatedAttention):
        shown = display_frames(explainer.frames(task.inputs, settings.target).flatten(2))[0]
        frames = shown.reshape(-1, *layout.grid)
        part.figures[f"{file_name}_frames"] = frames_figure(prepared, frames, layout, title=title)
        part.animations[f"{file_name}.gif"] = partial(
            save_animation, prepared=prepared, frames=frames, layout=layout
        )
    return part


def _components(task: _Task, layer: int) -> Explanation:
    """Draw the principal components of the patches' features."""
    found = principal_components(patch_features(task.model, task.inputs, layer))
    colors = component_colors(found.scores)[0].reshape(*task.layout.grid, -1)
    title = f"Principal components of the features after {'the last block' if layer == -1 else f'block {layer}'}"
    figure = pca_figure(task.prepared, colors, task.layout, found.explained[0], title=title)
    scores = found.scores[0].reshape(*task.layout.grid, -1).numpy()
    return Explanation({"pca": scores}, {"pca": figure}, {"pca_explained": found.explained[0].tolist()})


def _open_note(fractions: dict[str, float]) -> str:
    return OPEN_NOTE if fractions["window_fraction"] > OPEN_WINDOWS else ""


def _interactions(task: _Task, interactions: Interactions) -> Explanation:
    """Draw U, windows and fields together, as in the paper."""
    prepared, settings, coverage = task.prepared, task.settings, task.settings.coverage
    explainer = InteractionUncertainty(task.model, settings.exclude_sinks)
    uncertainty, layout, exclude = explainer.selected(interactions)
    field = responsive_field(
        uncertainty, layout.grid, settings.alpha, settings.beta, coverage=coverage, exclude=exclude
    )
    fractions = pair_fractions(field)
    narrowed = "" if coverage == 1 else f", window coverage {coverage:g}"
    narrowed += ", without attention sinks" if settings.exclude_sinks else ""
    title = (
        f"α = {settings.alpha:g}, β = {settings.beta:g}{narrowed}: "
        f"windows cover {fractions['window_fraction']:.0%} of all pairs, fields {fractions['field_fraction']:.0%}"
        f"{_open_note(fractions)}"
    )
    patches = list(settings.patches) or None
    figures = {
        "patch_interactions": interaction_figure(
            prepared,
            uncertainty[0],
            field,
            layout,
            patches,
            sinks=interactions.sinks.patches[0],
            exclude=exclude,
            title=title,
        ),
        "dropped_patches": indiscriminative_figure(
            prepared, uncertainty[0], layout, chosen=settings.beta, exclude=exclude
        ),
        "responsive_fields": field_figure(prepared, field, layout, title=title),
    }
    tensors = {
        "uncertainty": uncertainty,
        "windows": field.windows,
        "dropped": field.dropped,
        "field_mask": field.mask,
        "tendency": field.tendency,
    }
    arrays = {name: tensor[0].cpu().numpy() for name, tensor in tensors.items()}
    found = Explanation(arrays, figures, dict(fractions))
    if any(isinstance(module, WindowFreeAttention) for module in task.model.modules()):
        found.include(_own_windows(task, uncertainty))
    return found


def _own_windows(task: _Task, uncertainty: Tensor) -> Explanation:
    """Draw the windows that the model itself predicts for one patch."""
    with torch.no_grad(), record_windows(task.model) as record:
        task.model(task.inputs)
    masks = torch.stack(record.masks)[:, 0]
    facts = {"own_window_fraction_by_layer": masks.float().mean((1, 2)).tolist()}
    patch = next(iter(task.settings.patches or choose_patches(uncertainty[0], task.layout)))
    title = f"Windows of patch {patch}, as predicted by the model"
    figure = windows_figure(task.prepared, masks, task.layout, patch, title=title)
    return Explanation({"own_windows": masks.cpu().numpy()}, {"own_windows": figure}, facts)
