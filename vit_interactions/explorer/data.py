"""What one image's page shows: its patch interactions and attention, from one forward pass."""

from dataclasses import dataclass

from torch import Tensor, nn

from vit_interactions.attention.borrow import borrowed
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import observe
from vit_interactions.attention.record import AttentionCall
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explorer.quantise import QuantisedAttention, quantise_attention
from vit_interactions.figures import PreparedImage
from vit_interactions.functional.scores import Output
from vit_interactions.functional.uncertainty import RunningUncertainty
from vit_interactions.loading.predictions import Prediction, predict


@dataclass(frozen=True, eq=False)
class Study:
    """What a model does with one image.

    Attributes:
        prepared: the image and the model's view of it.
        layout: where its patches are.
        uncertainty: U (patches, patches), on the host.
        attention: of every layer among patches.
        prediction: the top class; None for a model without classes.
    """

    prepared: PreparedImage
    layout: TokenLayout
    uncertainty: Tensor
    attention: QuantisedAttention
    prediction: Prediction | None


def study(model: nn.Module, prepared: PreparedImage, *, named: bool, output: Output | None = None) -> Study:
    """Run a model on an image and keep what the page shows.

    Args:
        model: any ViT, borrowed; on its device.
        prepared: from `figures.prepare`.
        named: whether the model's classes are those of timm's own weights; see `predictions.class_name`.
        output: what the model's output is; None: see `predictions.find_output`.

    Raises:
        UnsupportedModelError: attention that is not from every patch to every patch.
    """
    model = unwrap(model)
    weight = next(model.parameters())
    inputs = prepared.input.unsqueeze(0).to(weight.device, weight.dtype)
    running, calls = RunningUncertainty(), list[AttentionCall]()

    def take_in(call: AttentionCall, layout: TokenLayout) -> None:
        shape = (1, call.query.shape[1], layout.patches, layout.patches)
        running.update(call.blocks(layout.prefix), shape, call.name)
        calls.append(call)

    _, layout, _ = observe(model, inputs, None, take_in)
    attention = quantise_attention(calls, layout)
    with borrowed(model) as own:
        prediction = predict(own, inputs, named=named, output=output)
    return Study(prepared, layout, running.result()[0].cpu(), attention, prediction)
