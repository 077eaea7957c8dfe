"""Observe what a model does with an image: its patches, its attention calls, and what its output is read from.

Nothing of it is taken from the model's attributes: one forward pass of a random image leaves a graph that holds all of
it (docs/design.md, "Look, don't trust").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.graph import Node, ancestors, node_of
from vit_interactions.attention.patches import PatchGrid, find_patches
from vit_interactions.attention.readout import read_groups
from vit_interactions.attention.record import AttentionCall
from vit_interactions.attention.structure import Graph, Structure, read_structure

# What transformers' outputs call the tensor that their users read, in the order in which it is looked for.
OUTPUTS = ("logits", "pooler_output", "image_embeds", "last_hidden_state")


@dataclass(frozen=True, eq=False)
class Probe:
    """What a model does with an image of one size.

    Attributes:
        image_size: (height, width) in pixels.
        structure: what each attention call is.
        names: the module of each attention call, in order.
        shapes: the shape of each call's query, without the batch.
        grid: where the patches are among the tokens and the pixels.
        groups: the tokens that the output is read from, in groups that are read alike; empty where it is read by an
            attention-pooling head alone, or where the output is the tokens themselves.
    """

    image_size: tuple[int, int]
    structure: Structure
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    grid: PatchGrid
    groups: tuple[tuple[int, ...], ...]


def examine(model: str, image: Tensor, calls: Sequence[AttentionCall], output: Any) -> Probe:
    """Read all of it from a recorded forward pass.

    Args:
        model: name of the model, for messages.
        image: (1, channels, height, width), the leaf from which the pass began.
        calls: all attention calls, in order.
        output: what the model returned.

    Raises:
        UnsupportedModelError: attention that is not from every patch to every patch of the image.
    """
    answer = main_output(output)
    graph = Graph(model, image, calls, answer)
    structure = read_structure(graph)
    first, last = calls[structure.layers[0][0]], structure.layers[-1]
    try:
        grid = find_patches(first.query, image)
    except ValueError as error:
        raise UnsupportedModelError(
            f"the patches of {model} cannot be placed: {error}. Give a Vision Transformer whose tokens are a regular "
            "grid of patches."
        ) from error
    check_unmixed(model, image, calls, structure)
    groups = _read_by(graph, answer, [calls[i] for i in last], structure, first.query.shape[-2])
    size = (image.shape[-2], image.shape[-1])
    shapes = tuple(tuple(call.query.shape[1:]) for call in calls)
    return Probe(size, structure, tuple(call.name for call in calls), shapes, grid, groups)


def main_output(output: Any) -> Tensor:
    """Find the tensor that a model answers with.

    Args:
        output: a tensor, an object or dictionary with one of `OUTPUTS`, or a sequence with a tensor in it.

    Raises:
        UnsupportedModelError: nothing of the kind.

    Example:
        >>> main_output({"loss": None, "logits": torch.zeros(1, 2)}).shape
        torch.Size([1, 2])
    """
    if isinstance(output, Tensor):
        return output
    fields = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    candidates = [fields.get(name) for name in OUTPUTS]
    others = list(output.values()) if isinstance(output, Mapping) else output
    candidates += list(others) if isinstance(others, Sequence) else []
    found = next((c for c in candidates if isinstance(c, Tensor) and c.is_floating_point()), None)
    if found is None:
        raise UnsupportedModelError(
            f"the model must return a tensor, or an object or dictionary with one of {', '.join(OUTPUTS)}, got "
            f"{type(output).__name__}."
        )
    return found


def check_unmixed(model: str, image: Tensor, calls: Sequence[AttentionCall], structure: Structure) -> None:
    """Raise UnsupportedModelError if tokens exchange anything between layers by another way than the attention read.

    With the gradient of all attention outputs set to 0, half of the tokens of the last layer's query must depend on
    the very pixels that feed the same tokens of the first layer.
    """
    layers = [[calls[i] for i in layer] for layer in structure.layers]
    if len(layers) < 2:
        return
    first, last = layers[0][0].query, layers[-1][0].query
    generator = torch.Generator().manual_seed(0)
    half = torch.randperm(first.shape[-2], generator=generator)[: first.shape[-2] // 2].to(first.device)
    handles = [
        node_of(call.output).register_prehook(lambda gradients: (None,) * len(gradients))
        for layer in layers
        for call in layer
    ]
    try:
        later = _pixels_of(last, image, half)
    finally:
        for handle in handles:
            handle.remove()
    if not torch.equal(_pixels_of(first, image, half), later):
        raise UnsupportedModelError(
            f"tokens of {model} exchange information between `{layers[0][0].name}` and `{layers[-1][0].name}` other "
            "than by the attention that was read (attention in a form that cannot be read, a convolution among "
            "tokens, or tokens that change places), so that attention alone does not explain it. Use a plain ViT, or "
            "the model's scaled_dot_product_attention implementation."
        )


def _pixels_of(query: Tensor, image: Tensor, tokens: Tensor) -> Tensor:
    """Mark the pixels that feed some tokens, (height, width) bool."""
    generator = torch.Generator().manual_seed(1)
    chosen = query[:, :, tokens]
    weights = torch.randn(chosen.shape, generator=generator).to(chosen.device, chosen.dtype)
    (gradient,) = torch.autograd.grad(chosen, image, weights, retain_graph=True)
    return gradient[0].ne(0).any(0)


def _read_by(
    graph: Graph, answer: Tensor, last: Sequence[AttentionCall], structure: Structure, tokens: int
) -> tuple[tuple[int, ...], ...]:
    """Group the tokens that the answer is read from otherwise than by a pooling head."""
    every = (1 << len(graph.calls)) - 1
    between: dict[Node, int] = ancestors([node_of(answer)], graph.marks, every)
    layers = sum(1 << i for layer in structure.layers for i in layer)
    if structure.pool is not None and not between[node_of(answer)] & layers:
        return ()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(answer.shape, generator=generator).to(answer.device, answer.dtype)
    groups = read_groups((answer * weights).sum(), [call.output for call in last], list(between), tokens)
    return tuple(map(tuple, groups))
