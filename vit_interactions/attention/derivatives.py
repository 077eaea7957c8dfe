"""Find gradients that a model cuts: detached, under `torch.no_grad`, or quantized."""

from typing import NoReturn

from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.graph import ancestors, has_no_derivative, node_of


def check_differentiable(model: nn.Module, score: Tensor, source: Tensor | None = None) -> None:
    """Raise UnsupportedModelError unless a score has a gradient, and one that reaches `source` if given.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> check_differentiable(nn.Identity(), (2 * x).sum(), x)
    """
    if score.grad_fn is None:
        raise_cut(model, "the score has no gradient")
    nodes = list(ancestors([score.grad_fn], {}))
    if has_no_derivative(nodes):
        raise_cut(model, "an operation between the image and the score has no derivative")
    if source is not None and node_of(source) not in nodes:
        raise_cut(model, "the score's gradient does not reach the image or the requested layer")


def raise_cut(model: nn.Module, what: str) -> NoReturn:
    """Raise UnsupportedModelError for a gradient that the model cuts, with the reason if the modules show it."""
    quantized = quantized_module(model)
    reason = (
        f"`{quantized}` is quantized, so it has no derivative. Explain the model before its quantization"
        if quantized
        else "the model detaches what it computes, runs under `torch.no_grad` or is quantized, or `target` does not "
        "use its output. Allow gradients"
    )
    raise UnsupportedModelError(
        f"{what}: {reason}, or use a method without gradients: captum's occlusion, or, if the layout is declared or "
        "stated with `vi.state_layout`, AttentionRollout or InteractionUncertainty."
    )


def quantized_module(model: nn.Module) -> str | None:
    """Return the name of the first module quantized by `torch.ao.quantization` or torchao, or None.

    Example:
        >>> quantized_module(nn.Linear(1, 1)) is None
        True
    """
    name: str
    for name, module in model.named_modules():
        weights = module.parameters(recurse=False)
        owners = [type(weight).__module__ for weight in weights]
        if ".nn.quantized." in type(module).__module__ or any(owner.startswith("torchao") for owner in owners):
            return name
    return None
