"""Compute what the explorer page of one image shows, in one forward pass of the model."""

from dataclasses import dataclass

from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluation_copy
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Observation, observe
from vit_interactions.attention.record import AttentionCall
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explain.attention_sinks import watch
from vit_interactions.explain.patch_features import BlockOutputs, layer_names
from vit_interactions.explorer.features import QuantizedFeatures, quantize_features
from vit_interactions.explorer.quantize import QuantizedAttention, quantize_attention
from vit_interactions.figures import PreparedImage
from vit_interactions.functional.attention_sinks import RunningSinks
from vit_interactions.functional.scores import Output
from vit_interactions.functional.uncertainty import RunningUncertainty
from vit_interactions.loading.predictions import Prediction, predict


@dataclass(frozen=True, eq=False)
class PageData:
    """Patch interactions and attention of one image.

    Attributes:
        prepared: the image and the model input made from it.
        layout: token layout of the model.
        uncertainty: (patches, patches), U on the CPU.
        attention: attention among patches, per layer.
        sinks: (patches,) bool, the attention sinks, on the CPU.
        exclude_sinks: whether they are left out of U, windows and fields.
        features: similarity and colors of the patches' features; None if they cannot be read.
        prediction: predicted class; None if the model is not a classifier.
    """

    prepared: PreparedImage
    layout: TokenLayout
    uncertainty: Tensor
    attention: QuantizedAttention
    features: QuantizedFeatures | None
    prediction: Prediction | None
    sinks: Tensor
    exclude_sinks: bool

    @property
    def excluded(self) -> Tensor | None:
        """The patches that are left out, (patches,) bool; None for none."""
        return self.sinks if self.exclude_sinks else None


def page_data(
    model: nn.Module,
    prepared: PreparedImage,
    *,
    named: bool,
    output: Output | None = None,
    exclude_sinks: bool = False,
) -> PageData:
    """Run a model on an image and return the data of its page.

    Args:
        model: any ViT; it is not modified.
        prepared: the image, from `figures.prepare`.
        named: whether the class names are those of the model's pretrained weights, as in `class_name`.
        output: kind of model output, as in `find_output`; None to detect it.
        exclude_sinks: leave out attention sinks, as `InteractionUncertainty` does.

    Raises:
        UnsupportedModelError: the model has no global attention among patches.
    """
    model = unwrap(model)
    weight = next(model.parameters())
    inputs = prepared.input.unsqueeze(0).to(weight.device, weight.dtype)
    running, running_sinks, calls = RunningUncertainty(), RunningSinks(), list[AttentionCall]()

    def on_layer(call: AttentionCall, layout: TokenLayout) -> None:
        shape = (1, call.query.shape[1], layout.patches, layout.patches)
        running.update(watch(running_sinks, call, layout), shape, call.name)
        calls.append(call)

    blocks = _blocks(model, inputs)
    if blocks is None:
        seen, features = observe(model, inputs, None, on_layer), None
    else:
        with blocks.kept():
            seen = observe(blocks.model, inputs, None, on_layer)
        features = _features(blocks, seen)
    attention = quantize_attention(calls, seen.layout)
    with evaluation_mode(model) as own:
        prediction = predict(own, inputs, named=named, output=output, outputs=seen.output)
    uncertainty = running.result()[0].cpu()
    sinks = running_sinks.result(seen.layout.grid).patches[0].cpu()
    if exclude_sinks:
        uncertainty = uncertainty.masked_fill(sinks, 0.0)
    return PageData(prepared, seen.layout, uncertainty, attention, features, prediction, sinks, exclude_sinks)


def _blocks(model: nn.Module, inputs: Tensor) -> BlockOutputs | None:
    """Find the blocks of a copy of the model; None if they cannot be read, which the page states."""
    names = layer_names(model, inputs, None)
    try:
        return BlockOutputs(evaluation_copy(model), names)
    except UnsupportedModelError:
        return None


def _features(blocks: BlockOutputs, seen: Observation) -> QuantizedFeatures | None:
    try:
        return quantize_features([blocks.patches(layer, seen)[0] for layer in range(blocks.layers)])
    except UnsupportedModelError:
        return None
