"""Tell a gradient that is zero from one that a model cuts: detached, under `torch.no_grad`, or quantized."""

from typing import Any, NoReturn

from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.graph import ancestors, name_of


def check_differentiable(model: nn.Module, score: Tensor, source: Tensor | None = None) -> None:
    """Raise unless a score has a gradient, through operations that have one, that arrives at `source` if given.

    Raises:
        UnsupportedModelError: none; the message names the reason.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> check_differentiable(nn.Identity(), (2 * x).sum(), x)
    """
    if score.grad_fn is None:
        refuse_cut(model, "the score has no gradient")
    nodes = list(ancestors([score.grad_fn], {}))
    # What torch puts in the place of a derivative that an operation does not have.
    if any(name_of(node).endswith("WarnNotImplemented") for node in nodes):
        refuse_cut(model, "an operation between the image and the score has no derivative")
    if source is not None and not any(_is_origin(node, source) for node in nodes):
        refuse_cut(model, "the score's gradient does not arrive at the image or the layer that was asked for")


def refuse_cut(model: nn.Module, what: str) -> NoReturn:
    """Raise UnsupportedModelError for a gradient that the model cuts, with the reason where the modules tell it."""
    quantized = quantized_module(model)
    reason = (
        f"`{quantized}` is quantized, so it has no derivative. Explain the model before its quantization"
        if quantized
        else "the model detaches what it computes, runs under `torch.no_grad` or is quantized, or `target` does not "
        "use its output. Let gradients through"
    )
    raise UnsupportedModelError(
        f"{what}: {reason}, or use a method without gradients: captum's occlusion, or AttentionRollout or "
        "InteractionUncertainty if the model declares where its patches are or you state it (`vi.state_layout`)."
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
        if ".nn.quantized." in type(module).__module__ or any(
            type(w).__module__[:7] == "torchao" for w in weights
        ):
            return name
    return None


def _is_origin(node: Any, source: Tensor) -> bool:
    return node is source.grad_fn if source.grad_fn else getattr(node, "variable", None) is source
