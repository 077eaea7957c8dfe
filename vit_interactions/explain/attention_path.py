"""Base class for methods that integrate the attention gradient along a path from a black image to the input.

The last point of the path is the input itself, whose pass the base class has already made. Every other point takes a
forward pass and a backward pass that ends at the last layer's attention. Only the rows of the readout tokens are kept.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Backtrace, LayerGradient, guarded
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probing.request import as_arguments
from vit_interactions.attention.record import AttentionCall, output_gradients
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.memory_bank import MemoryBank
from vit_interactions.explain.targets import select_target
from vit_interactions.functional.attention import attention_gradient
from vit_interactions.functional.integrated_gradient import path_fractions, positive_gradient
from vit_interactions.functional.scores import class_outputs


def same_class(output: Any, target: Any) -> Any:
    """Resolve "pred" or a `MemoryBank` for the image, so that other inputs are scored by the same target."""
    if isinstance(target, str) and target == "pred":
        return class_outputs(output).argmax(1)
    return target.fixed(output) if isinstance(target, MemoryBank) else target


def read_tokens(readout: Tensor) -> Tensor:
    """Return the indices of the tokens that a readout (batch, tokens) uses."""
    return readout.gt(0).any(0).nonzero().squeeze(1)


class PathExplainer(GradientExplainer):
    """Base class of methods that weight tokens by the integrated gradient at the last layer's attention."""

    forwards = 20
    backwards = 20

    def __init__(self, model: nn.Module, steps: int = 20) -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            steps: points of the path, both ends included; 1 is the image itself.

        Raises:
            ValueError: `steps` < 1.
        """
        super().__init__(model)
        self._fractions = path_fractions(steps)
        self.steps = steps

    def _path_gradient(
        self, trace: Backtrace, inputs: Tensor, target: Any, additional_forward_args: Any, rows: Tensor
    ) -> Tensor:
        """Compute mean_h max(mean over the path of dS/dA_L, 0) of some rows, (batch, rows, tokens).

        Raises:
            ValueError: a gradient on the path is not finite.
        """
        target = same_class(trace.output, target)
        # The path ends at the image, whose gradient is already known.
        total = _gradient_rows(next(trace.layers_from_the_top()), rows)
        for fraction in self._fractions[:-1]:
            last = self._last_gradient(inputs, fraction, target, additional_forward_args)
            total += _gradient_rows(last, rows)
        if not total.isfinite().all():
            raise ValueError(
                "the gradient at the last attention is not finite on the path from the zero image to `inputs`; "
                "half precision may have overflowed: use the model in float32 or bfloat16."
            )
        return positive_gradient(total / self.steps)

    def _last_gradient(
        self, inputs: Tensor, fraction: float, target: Any, additional_forward_args: Any
    ) -> LayerGradient:
        """Run the model forward at one point of the path, and backward to its last layer's attention output."""
        last: list[AttentionCall] = []

        def keep(call: AttentionCall, layout: TokenLayout) -> None:
            last[:] = [call]

        def score(output: Any) -> Tensor:
            return select_target(output, target, len(inputs))

        with differentiable(inputs, fraction) as point:
            with guarded(self.model, point, additional_forward_args, keep, score=score) as guard:
                output = guard.model(point, *as_arguments(additional_forward_args))
            (gradient,) = output_gradients(guard.model, score(output), last, keep_graph=False)
        return LayerGradient(last[0].detached(), gradient)


@torch.no_grad()
def _gradient_rows(layer: LayerGradient, rows: Tensor) -> Tensor:
    """Compute some rows of the gradient at the attention, (batch, heads, rows, tokens)."""
    return attention_gradient(layer.output_gradient[:, :, rows], layer.call.value)
