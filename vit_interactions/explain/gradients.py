"""Base class of methods that use gradients: one forward and one backward pass, then layer by layer.

The gradient at a layer's attention is computed from the gradient at its output z and from its values, so the gradients
of all layers are never in memory at once.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import observe_gradients
from vit_interactions.attention.record import AttentionCall, AttentionRecord
from vit_interactions.explain.base import Explainer, Observation
from vit_interactions.explain.targets import require_target, select_target


class LayerGradient(NamedTuple):
    """The attention call of one layer, detached, and the gradient of the score at its output.

    Attributes:
        call: the layer's call.
        output_gradient: (batch, heads, tokens, width), the gradient at z.
    """

    call: AttentionCall
    output_gradient: Tensor

    def attention(self) -> Tensor:
        """Compute A (batch, heads, tokens, tokens), at least float32."""
        return self.call.attention()

    def gradient(self) -> Tensor:
        """Compute the exact gradient at A (batch, heads, tokens, tokens), at least float32."""
        return self.call.attention_grad(self.output_gradient)


class Backtrace(NamedTuple):
    """The result of one forward and one backward pass."""

    output: Any
    layout: TokenLayout
    record: AttentionRecord
    gradients: tuple[Tensor, ...]

    def layers(self) -> Iterator[LayerGradient]:
        """Yield the layers from the first to the last."""
        return map(LayerGradient, self.record.calls, self.gradients)

    def layers_from_the_top(self) -> Iterator[LayerGradient]:
        """Yield the layers from the last to the first."""
        return map(LayerGradient, reversed(self.record.calls), reversed(self.gradients))

    def readout(self) -> Tensor:
        """Return the share of each output token in the model's output, (batch, tokens), at least float32."""
        query = self.record.calls[0].query
        weights = Observation(query, self.layout, self.record).readout()
        return weights.to(torch.promote_types(query.dtype, torch.float32)).expand(query.shape[0], -1)

    def readout_rows(self) -> slice:
        """Return the tokens that the output is read from: class token, class and distillation token, or patches."""
        if self.layout.readout == "token":
            return slice(0, 1)
        if self.layout.readout == "distilled":
            return slice(0, 2)
        if self.layout.readout == "token_avg":
            return slice(None)
        prefix_is_read = bool((self.readout()[:, : self.layout.prefix] > 0).any())
        return slice(0 if prefix_is_read else self.layout.prefix, None)


class GradientExplainer(Explainer):
    """Base class of methods that use the gradient of a score at the attention of each layer."""

    class_specific = True
    backwards = 1

    def _backtrace(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Backtrace:
        """Run the model forward and backward once, from the score of the target.

        Raises:
            UnsupportedModelError: a score without a gradient.
            ValueError: no target.
        """
        require_target(type(self).__name__, target)

        def score(output: Any) -> Tensor:
            return select_target(output, target, len(inputs))

        return Backtrace(*observe_gradients(self.model, inputs, additional_forward_args, score))
