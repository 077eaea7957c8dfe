"""Find the tensors in what a model returns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError

# Names in outputs of Hugging Face models, in the order in which they are searched.
OUTPUTS = ("logits", "pooler_output", "image_embeds", "last_hidden_state")


def main_output(output: Any) -> Tensor:
    """Return the main tensor of a model's output: the tensor itself, the first of `OUTPUTS`, or any other.

    Raises:
        UnsupportedModelError: an output without a floating-point tensor.

    Example:
        >>> import torch
        >>> main_output({"loss": None, "logits": torch.zeros(1, 2)}).shape
        torch.Size([1, 2])
    """
    found = next(iter(tensors_of(output)), None)
    if found is None:
        came = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise UnsupportedModelError(
            "the model must return a floating-point tensor (scores, not the index of the best one), or an object or "
            f"dictionary with one of {', '.join(OUTPUTS)}, got {came}."
        )
    return found


def tensors_of(output: Any) -> list[Tensor]:
    """List the floating-point tensors in an output, those named in `OUTPUTS` first.

    Example:
        >>> import torch
        >>> [len(tensor) for tensor in tensors_of({"aux": torch.zeros(3), "logits": torch.zeros(2), "n": 1})]
        [2, 3]
    """
    found = {id(tensor): tensor for tensor in _tensors(output, set()) if tensor.is_floating_point()}
    return list(found.values())


def _tensors(output: Any, visited: set[int]) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
        return
    if id(output) in visited or isinstance(output, nn.Module | type):
        return
    visited.add(id(output))
    fields = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    named = [part for name in OUTPUTS if (part := fields.get(name, getattr(output, name, None))) is not None]
    others = output if isinstance(output, Sequence) and not isinstance(output, str) else fields.values()
    for part in (*named, *others):
        yield from _tensors(part, visited)
