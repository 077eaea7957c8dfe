"""Base class for methods that integrate the attention gradient along a path from a black image to the input.

The last point of the path is the input itself, whose pass the base class has already made. Every other point takes a
forward pass and a backward pass that ends at the last layer's attention, where its graph begins. So the passes need
little memory, and several points pass together. Only the rows of the readout tokens are kept.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Backtrace, LayerGradient, guarded
from vit_interactions.attention.probing.request import as_arguments
from vit_interactions.attention.record import AttentionCall, output_gradients
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.memory_bank import MemoryBank
from vit_interactions.explain.targets import select_target
from vit_interactions.functional.attention import attention_gradient
from vit_interactions.functional.integrated_gradient import path_fractions, positive_gradient
from vit_interactions.functional.scores import class_outputs

# Elements of the last layer's queries in one pass along the path.
CPU_POINTS, GPU_POINTS = 2**19, 2**24


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
        last = next(trace.layers_from_the_top())
        total = _gradient_rows(last, rows)
        rest = self._fractions[:-1]
        count = points_per_pass(trace, additional_forward_args)
        for fractions in (rest[i : i + count] for i in range(0, len(rest), count)):
            found = self._last_gradient(inputs, fractions, target, additional_forward_args, trace)
            total += _gradient_rows(found, rows).view(len(fractions), *total.shape).sum(0)
        if not total.isfinite().all():
            raise ValueError(
                "the gradient at the last attention is not finite on the path from the zero image to `inputs`; "
                "half precision may have overflowed: use the model in float32 or bfloat16."
            )
        return positive_gradient(total / self.steps)

    def _last_gradient(
        self,
        inputs: Tensor,
        fractions: list[float],
        target: Any,
        additional_forward_args: Any,
        trace: Backtrace,
    ) -> LayerGradient:
        """Run the model forward at points of the path, and backward to its last layer's attention output.

        Args:
            inputs: the images.
            fractions: the points, one after the other in the batch of the result.
            target: one target per image, or a function of the output for the images.
            additional_forward_args: see `Explainer.attribute`.
            trace: the pass of the images themselves.
        """
        last: list[AttentionCall] = []
        layers = trace.record.calls
        # A layer may use the output of one of its calls before it makes the others.
        graph = LateGraph(len(layers)) if len(layers[-1].outputs) == 1 else None

        def keep(call: AttentionCall, layout: TokenLayout) -> None:
            last[:] = [call]
            if graph is not None:
                graph.passed(call)

        def score(output: Any) -> Tensor:
            if len(fractions) == 1:
                return select_target(output, target, len(inputs))
            return torch.cat([select_target(part, target, len(inputs)) for part in output.split(len(inputs))])

        with torch.inference_mode(False), torch.enable_grad():
            points = torch.cat([inputs.detach() * fraction for fraction in fractions])
            points.requires_grad_(graph is None)
            with guarded(self.model, points, additional_forward_args, keep, graph, score) as guard:
                output = guard.model(points, *as_arguments(additional_forward_args))
            (gradient,) = output_gradients(guard.model, score(output), last, keep_graph=False)
        return LayerGradient(last[0].detached(), gradient)


def points_per_pass(trace: Backtrace, additional_forward_args: Any) -> int:
    """Choose how many points of the path pass together: as many as fit in the memory budget.

    Only outputs that are one tensor with a row per image can be divided into points, and further arguments may have a
    row per image.
    """
    call = trace.record.calls[-1]
    output = trace.output
    divisible = isinstance(output, Tensor) and output.ndim > 0 and len(output) == len(call.query)
    if not divisible or additional_forward_args is not None:
        return 1
    budget = GPU_POINTS if call.query.is_cuda else CPU_POINTS
    return max(1, budget // call.query.numel())


class LateGraph(TorchFunctionMode):
    """A mode that runs a model without a graph until its last layer's attention output, where the graph begins."""

    def __init__(self, layers: int) -> None:
        """Create the mode for a model with a number of layers."""
        super().__init__()
        self._missing = layers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch.set_grad_enabled(self._missing == 0 and torch.is_grad_enabled()):
            return func(*args, **kwargs or {})

    def passed(self, layer: AttentionCall) -> None:
        """Count a layer; the outputs of the last one become the leaves of the graph."""
        self._missing -= 1
        if self._missing == 0:
            for output in layer.outputs:
                output.requires_grad_()


@torch.no_grad()
def _gradient_rows(layer: LayerGradient, rows: Tensor) -> Tensor:
    """Compute some rows of the gradient at the attention, (batch, heads, rows, tokens)."""
    return attention_gradient(layer.output_gradient[:, :, rows], layer.call.value)
