"""Copies of the input to run a model on, and clear errors for models that cannot be run."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, fx, nn

from vit_interactions.attention.errors import UnsupportedModelError

IN_PLACE = (
    "the model changes its input in place, e.g. by `x.sub_(mean)`, which gradients cannot follow. Normalize by "
    "`x = x - mean`, or outside the model."
)


@contextmanager
def own_input(inputs: Tensor) -> Iterator[Tensor]:
    """Yield a copy of the input for a block that runs the model.

    Args:
        inputs: (batch, channels, height, width); not changed, whatever the model does.

    Raises:
        UnsupportedModelError: a model that changes its input in place.

    Example:
        >>> with own_input(torch.ones(1, 3, 2, 2)) as image:
        ...     image.shape
        torch.Size([1, 3, 2, 2])
    """
    if not isinstance(inputs, Tensor) or inputs.is_meta:  # later checks raise
        yield inputs
        return
    with torch.inference_mode(False):
        image = inputs.detach().clone()
    version = image._version
    try:
        yield image
    except RuntimeError as error:
        if "leaf Variable that requires grad" in str(error) and "in-place" in str(error):
            raise UnsupportedModelError(IN_PLACE) from error
        raise
    if image._version != version:
        raise UnsupportedModelError(IN_PLACE)


@contextmanager
def differentiable(inputs: Tensor, factor: float = 1.0) -> Iterator[Tensor]:
    """Yield a copy of the input, times a factor, as the leaf of a graph for a block that runs the model.

    The graph is built even inside the caller's `no_grad` or `inference_mode`.

    Example:
        >>> with torch.inference_mode(), differentiable(torch.ones(2)) as leaf:
        ...     (leaf * 3).sum().backward()
        >>> leaf.grad
        tensor([3., 3.])
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield (inputs.detach().clone() * factor).requires_grad_()


def check_runnable(model: nn.Module) -> None:
    """Raise UnsupportedModelError for a model without weights, or one that is a graph of exported operations."""
    if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
        raise UnsupportedModelError(
            "the model is on the meta device, which holds no weights. Create it on a device and load its weights."
        )
    if isinstance(model, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes
    ):
        raise UnsupportedModelError(
            "the model was exported by `torch.export`, which leaves no attention to read. Give the model that was "
            "exported."
        )
