"""Explain one photograph: the raw maps of the chosen methods, and the figures that show them.

What goes wrong in one method is that method's alone: the others' maps are kept.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.layout import Readout, TokenLayout
from vit_interactions.explain import DynamicAccumulatedAttention, ZeroMapWarning
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.explain.interaction_uncertainty import (
    InteractionExplainer,
    InteractionUncertainty,
    patch_index,
)
from vit_interactions.explain.responsive_field_size import FieldExplainer, ResponsiveFieldSize
from vit_interactions.explain.settings import OPEN_WINDOWS, Settings, pair_shares
from vit_interactions.figures import (
    PreparedImage,
    choose_patches,
    field_figure,
    frames_figure,
    indiscriminative_figure,
    interaction_figure,
    map_figure,
    save_animation,
    windows_figure,
)
from vit_interactions.functional.accumulated_attention import display_frames
from vit_interactions.functional.responsive_field import ResponsiveField, responsive_field
from vit_interactions.loading.predictions import Prediction, class_label, class_name, predict
from vit_interactions.models import WindowFreeAttention, record_windows
from vit_interactions.utilities.names import unique_names
from vit_interactions.utilities.text import method_in_words

ZERO_NOTE = ". Zero everywhere: the method found nothing"
OPEN_NOTE = ". Windows this open mirror where a patch lies, not what it shows: choose a smaller α"
READ_FROM: dict[Readout, str] = {
    "distilled": "class and distillation token",
    "avg": "mean of the tokens",
    "map": "pooling head",
    "token_avg": "class token and patches",
}


@dataclass
class Explanation:
    """What was found about one photograph.

    Attributes:
        arrays: the raw maps by method, and the tensors of the patch interactions by their names in the library.
        figures: by the name of their file.
        facts: what a manifest says beside them: prediction, layout, the area that the model saw, shares of pairs,
            and the reasons of the methods that do not apply to the model ("refused") or went wrong ("failed").
        animations: functions that write an animation to a file, by the file's name.
        readouts: what the model's answer was read from, of the methods that are published for a class token only.
    """

    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    animations: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    readouts: dict[str, Readout] = field(default_factory=dict)

    def include(self, part: "Explanation") -> None:
        """Add what another explanation of the photograph holds beside its facts."""
        self.arrays.update(part.arrays)
        self.figures.update(part.figures)
        self.animations.update(part.animations)
        self.readouts.update(part.readouts)


class _Task(NamedTuple):
    """What the methods of one photograph share."""

    model: nn.Module
    prepared: PreparedImage
    settings: Settings
    inputs: Tensor
    layout: TokenLayout
    prediction: Prediction | None
    target: str


def explain_image(model: nn.Module, prepared: PreparedImage, settings: Settings) -> Explanation:
    """Explain one photograph by all methods of the settings.

    Args:
        model: the model, in evaluation mode on its device.
        prepared: from `figures.prepare`.
        settings: what to explain it by.

    Raises:
        UnsupportedModelError: the model's attention cannot be read, or no method of the settings applies to it. What
            only some methods refuse stands in `facts["refused"]`.
        ValueError: a patch outside the grid, or no method that succeeded. What goes wrong in some methods only stands
            in `facts["failed"]`.
    """
    inputs = prepared.input.unsqueeze(0).to(next(model.parameters()).device)
    layout = image_layout(model, (inputs.shape[-2], inputs.shape[-1]))
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
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    # The methods of patch interactions share one U: the most expensive part is done once.
    uncertainty = inputs.new_empty(0)
    interactions = [each.name for each in settings.methods if issubclass(each.kind, InteractionExplainer)]
    if interactions:
        with _collected(interactions, refused, failed):
            uncertainty = InteractionUncertainty(model).uncertainty(inputs)
            fields = responsive_field(uncertainty, layout.grid, settings.alpha, settings.beta)
            shares = pair_shares(fields)
            title = (
                f"α = {settings.alpha:g}, β = {settings.beta:g}: the windows hold {shares['window_share']:.0%} "
                f"of all pairs, the fields {shares['field_share']:.0%}{_open_note(shares)}"
            )
            figures = _interaction_figures(prepared, uncertainty[0], fields, layout, settings, title)
            explanation.facts.update(shares)
            explanation.include(Explanation(field_arrays(uncertainty, fields), figures))
            if any(isinstance(module, WindowFreeAttention) for module in model.modules()):
                explanation.include(_own_windows(task, uncertainty, explanation.facts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # the figures say it
        names = [method.name for method in settings.methods]
        for method, file_name in zip(settings.methods, unique_names(names), strict=True):
            if method.name not in refused and method.name not in failed:
                with _collected([method.name], refused, failed):
                    explanation.include(_explain_by(method, file_name, task, uncertainty))
    explained = [name for name in names if name not in refused and name not in failed]
    if not explained:
        reasons = "; ".join(dict.fromkeys([*refused.values(), *failed.values()]))
        raise ValueError(reasons) if failed else UnsupportedModelError(reasons)
    zero_maps = [name for name in explained if not explanation.arrays[name].any()]
    explanation.facts.update(refused=refused, failed=failed, zero_maps=zero_maps, readouts=explanation.readouts)
    return explanation


@contextlib.contextmanager
def _collected(names: Sequence[str], refused: dict[str, str], failed: dict[str, str]) -> Iterator[None]:
    """Write down why the methods of these names give no map, instead of raising it."""
    try:
        yield
    except UnsupportedModelError as error:
        refused.update(dict.fromkeys(names, str(error)))
    except (ValueError, RuntimeError, IndexError) as error:
        failed.update(dict.fromkeys(names, str(error) or type(error).__name__))


def _explain_by(method: ConfiguredMethod, file_name: str, task: _Task, uncertainty: Tensor) -> Explanation:
    """Explain by one method: its map, its figure and what else it shows."""
    prepared, settings, layout = task.prepared, task.settings, task.layout
    explainer = method.create(task.model)
    patch_map = (
        explainer.map_from(uncertainty, layout)[0].reshape(layout.grid)
        if isinstance(explainer, InteractionExplainer)
        else explainer.patch_map(task.inputs, settings.target if explainer.class_specific else None)[0]
    )
    part = Explanation({method.name: patch_map.cpu().numpy()})
    title = method_in_words(method.name)
    if isinstance(explainer, DynamicAccumulatedAttention):
        part.readouts[method.name] = layout.readout
        title += f", read from the {READ_FROM[layout.readout]}" if layout.readout in READ_FROM else ""
    if explainer.class_specific and task.target:
        title += f", {task.target}"
    title += "" if task.prediction is None else f" (predicted: {task.prediction})"
    if isinstance(explainer, FieldExplainer):
        title += _open_note(pair_shares(explainer.field_from(uncertainty, layout)))
    title += "" if patch_map.any() else ZERO_NOTE
    part.figures[file_name] = map_figure(
        prepared,
        patch_map,
        layout,
        title=title,
        label=explainer.quantity,
        more_is_relevant=explainer.more_is_relevant,
        norm=Normalize(1, layout.patches) if isinstance(explainer, ResponsiveFieldSize) else None,
    )
    if isinstance(explainer, DynamicAccumulatedAttention):
        shown = display_frames(explainer.frames(task.inputs, settings.target).flatten(2))[0]
        frames = shown.reshape(-1, *layout.grid)
        part.figures[f"{file_name}_frames"] = frames_figure(prepared, frames, layout, title=title)
        part.animations[f"{file_name}.gif"] = partial(
            save_animation, prepared=prepared, frames=frames, layout=layout
        )
    return part


def _open_note(shares: dict[str, float]) -> str:
    return OPEN_NOTE if shares["window_share"] > OPEN_WINDOWS else ""


def _interaction_figures(
    prepared: PreparedImage,
    uncertainty: Tensor,
    fields: ResponsiveField,
    layout: TokenLayout,
    settings: Settings,
    title: str,
) -> dict[str, Figure]:
    """Draw the paper's figures, which show U, windows and fields of one image together."""
    patches = list(settings.patches) or None
    return {
        "patch_interactions": interaction_figure(prepared, uncertainty, fields, layout, patches, title=title),
        "dropped_patches": indiscriminative_figure(prepared, uncertainty, layout, chosen=settings.beta),
        "responsive_fields": field_figure(prepared, fields, layout, title=title),
    }


def _own_windows(task: _Task, uncertainty: Tensor, facts: dict[str, Any]) -> Explanation:
    """Show the windows that the model found itself, for the first chosen patch; their sizes go to the facts."""
    with torch.no_grad(), record_windows(task.model) as record:
        task.model(task.inputs)
    masks = torch.stack(record.masks)[:, 0]
    facts["own_window_share_by_layer"] = masks.float().mean((1, 2)).tolist()
    patch = next(iter(task.settings.patches or choose_patches(uncertainty[0], task.layout)))
    title = f"The windows of patch {patch} that the model finds itself"
    figure = windows_figure(task.prepared, masks, task.layout, patch, title=title)
    return Explanation({"own_windows": masks.cpu().numpy()}, {"own_windows": figure})


def field_arrays(uncertainty: Tensor, fields: ResponsiveField) -> dict[str, np.ndarray[Any, Any]]:
    """Return the raw tensors of one image's interactions, under the names they have in the library."""
    tensors = {
        "uncertainty": uncertainty,
        "windows": fields.windows,
        "dropped": fields.dropped,
        "field_mask": fields.mask,
        "tendency": fields.tendency,
    }
    return {name: tensor[0].cpu().numpy() for name, tensor in tensors.items()}
