"""Read from the graph of a forward pass what its attention calls are: layers in series, a pooling head, or neither."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import groupby
from operator import or_

import torch
from torch import Tensor

from vit_interactions.attention.errors import UnobservableModelError, UnsupportedModelError, named
from vit_interactions.attention.graph import Node, ancestors, has_no_derivative, name_of, node_of
from vit_interactions.attention.record import AttentionCall

PREFIX = 16  # most prefix tokens, if tokens are laid out as (batch, rows, cols, channels)
# Nodes that only change the shape, the memory layout or the type of the same numbers.
_MOVES = (
    "Permute",
    "View",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Clone",
    "Copy",
    "Alias",
    "Expand",
    "T",
)  # "T": Transpose


@dataclass(frozen=True)
class Structure:
    """The roles of the attention calls of a forward pass.

    Attributes:
        layers: the calls of each layer, by index; several if a layer computes its heads in several calls.
        pool: the call of the attention-pooling head; None without one.
        ignored: calls that do not depend on the image, or that the output does not depend on.
    """

    layers: tuple[tuple[int, ...], ...]
    pool: int | None
    ignored: tuple[int, ...]


class Graph:
    """The graph of a recorded forward pass."""

    def __init__(self, model: str, image: Tensor, calls: Sequence[AttentionCall], output: Tensor) -> None:
        """Walk the graph from an output back to the image, with all attention calls in order.

        Raises:
            UnobservableModelError: an output that does not depend on the image by way of the graph.
        """
        self.model, self.image, self.calls, self.output = model, image, calls, output
        self.image_bit = 1 << len(calls)
        self.marks: dict[Node, int] = {node_of(call.outputs[0]): 1 << i for i, call in enumerate(calls)}
        self.marks.pop(None, None)
        self.marks[node_of(image)] = self.image_bit
        starts = [node_of(tensor) for call in calls for tensor in _inputs(call)]
        self.found = ancestors([*starts, node_of(output)], self.marks)
        self.score = self.found.get(node_of(output), 0)
        if has_no_derivative(self.found):
            raise UnobservableModelError(f"an operation of {model} has no derivative, such as a quantized layer.")
        if not self.score & self.image_bit:
            raise UnobservableModelError(
                f"the output of {model} has no gradient with respect to the image: the model is quantized, detaches a "
                "tensor, or runs without gradients."
            )

    @cached_property
    def behind_output(self) -> dict[Node, int]:
        """The nodes from the output back to the attention calls nearest to it, with the bits of those calls."""
        return ancestors([node_of(self.output)], self.marks, self.image_bit - 1)

    def reach(self, index: int) -> int:
        """Return the bits of everything that the inputs of a call depend on."""
        return reduce(or_, (self.found.get(node_of(tensor), 0) for tensor in _inputs(self.calls[index])), 0)

    def consumers(self, node: Node) -> list[Node]:
        """Return the nodes that take the output of a node."""
        return [other for other in self.found if any(parent is node for parent, _ in other.next_functions)]


def read_structure(graph: Graph) -> Structure:
    """Sort the attention calls of a pass into layers, a pooling head and what does not matter.

    Raises:
        UnsupportedModelError: calls that are not layers in series, each attending from every token to every token.
    """
    calls, every = graph.calls, range(len(graph.calls))
    reach = [graph.reach(i) for i in every]
    fed = [i for i in every if reach[i] & graph.image_bit]
    relevant = [i for i in fed if graph.score >> i & 1]
    ignored = tuple(i for i in every if i not in relevant)
    if not relevant:
        raise UnsupportedModelError(_nothing(graph, fed))
    # The queries of a pooling head are latents, which no pixel feeds.
    latent = [not graph.found.get(node_of(call.query), 0) for call in calls]
    pools = [i for i in relevant if calls[i].is_pooling and latent[i]] or [
        i for i in relevant[-1:] if _reads_for_all(graph, i)
    ]
    layers = [i for i in relevant if i not in pools]
    if len(pools) > 1 or (pools and (not layers or any(reach[i] >> pools[0] & 1 for i in layers))):
        raise UnsupportedModelError(
            f"{named(calls[pools[0]].name)} is an attention pool from {calls[pools[0]].key.shape[-2]} tokens to "
            f"{calls[pools[0]].query.shape[-2]}, but more attention follows, so not all layers have the same tokens. "
            "Use a ViT with global attention."
        )
    # Some models have windows first and global attention later: name the layer with fewer tokens.
    largest = max((calls[i] for i in layers), key=lambda call: call.query.shape[-2])
    owner = "the first layer" if largest.name == calls[layers[0]].name else named(largest.name)
    for i in layers:
        check_tokens(calls[i], largest.query.shape[-2], len(graph.image), owner)
    for i in layers:
        _check_connected(graph, calls[i])
    # Consecutive calls that depend on the same calls make up one layer.
    mask = sum(1 << i for i in layers)
    groups = [tuple(group) for _, group in groupby(layers, lambda i: reach[i] & mask)]
    _check_series(graph, groups, reach)
    again = next((i for i in ignored if i not in fed and calls[i].name in {calls[j].name for j in layers}), None)
    if again is not None:
        raise UnsupportedModelError(
            f"{named(calls[again].name)} runs on the image and on something else: {graph.model} runs several passes "
            "(a siamese model, an ensemble). Explain the ViT itself, once for each image."
        )
    _check_entrance(graph, groups[0])
    return Structure(tuple(groups), pools[0] if pools else None, ignored)


def check_tokens(call: AttentionCall, tokens: int, batch: int, owner: str) -> None:
    """Raise UnsupportedModelError unless a call attends from every token of one image to every token.

    `owner` is the layer that has `tokens` tokens, for the message.
    """
    shape = tuple(call.query.shape)
    if len(shape) != 4 or shape[0] != batch:
        raise UnsupportedModelError(windowed(call, f"expected ({batch}, heads, tokens, width)"))
    if call.is_pooling:
        raise UnsupportedModelError(
            f"{named(call.name)} attends from {shape[2]} of the tokens to {call.key.shape[-2]} (class attention, "
            "pooled keys, or queries computed in chunks), so no call has the attention of all pairs of patches. Use a "
            "ViT in which all tokens attend to all in one call."
        )
    if shape[2] != tokens:
        raise UnsupportedModelError(
            f"{named(call.name)} attends among {shape[2]} items, but {owner} has {tokens} tokens: channel, pooled or "
            "windowed attention, and tokens that are dropped or merged, do not relate pairs of patches. Use a ViT "
            "with global attention."
        )


def windowed(call: AttentionCall, wrong: str) -> str:
    """Return the message for a call that attends within windows, with what is wrong with its query."""
    return (
        f"{named(call.name)} attends within windows or groups, not over the whole image: its query has shape "
        f"{tuple(call.query.shape)}, {wrong}. Use a ViT with global attention. If the model stacks several views of an "
        "image in the batch (crops, flips), explain the model of one view."
    )


def _inputs(call: AttentionCall) -> list[Tensor]:
    return [tensor for tensor in (call.query, call.key, call.value, call.mask) if tensor is not None]


def _nothing(graph: Graph, fed: list[int]) -> str:
    if not graph.calls:
        return (
            f"{graph.model} made no call of scaled_dot_product_attention among its tokens, so there is no attention to "
            "explain. A softmax that multiplies the values (by `@`, matmul, bmm or einsum) would be read too, but not "
            "`exp` divided by its sum, `log_softmax(...).exp()`, or a product and sum written out. Give a Vision "
            "Transformer that attends in one of these ways, and runs as plain PyTorch modules."
        )
    if fed:
        return (
            f"the output of {graph.model} has no gradient with respect to its attention: "
            f"{named(graph.calls[fed[-1]].name)} is followed by `detach`, or its output is not used."
        )
    return (
        f"the attention of {graph.model} has no gradient with respect to the image: its input was detached, or it "
        "attends among tokens of a text."
    )


def _check_connected(graph: Graph, call: AttentionCall) -> None:
    """Raise UnsupportedModelError if a part of an attention is cut from the graph."""
    # Explicit attention has its scores as the query, and the identity as the key.
    written_out = call.scale == 1.0 and torch.equal(call.key[0, 0], torch.eye(*call.key.shape[-2:]).to(call.key))
    for part in ("query", "value") if written_out else ("query", "key", "value"):
        if not graph.found.get(node_of(getattr(call, part)), 0) & graph.image_bit:
            raise UnsupportedModelError(
                f"the {part} of {named(call.name)} has no gradient with respect to the image, because {graph.model} "
                "uses `detach` or `torch.no_grad` in its forward pass. The probe cannot see what the layer does. "
                "Remove it."
            )


def _reads_for_all(graph: Graph, index: int) -> bool:
    """Check whether the last call pools tokens by a query made of them, and all of the output comes through it."""
    call = graph.calls[index]
    behind = graph.behind_output.get(node_of(graph.output), 0)
    return call.query.shape[-2] < call.key.shape[-2] and index > 0 and behind & (graph.image_bit - 1) == 1 << index


def _check_series(graph: Graph, groups: Sequence[tuple[int, ...]], reach: Sequence[int]) -> None:
    """Raise UnsupportedModelError unless each layer depends on all before it, and its calls are heads of one map."""
    before = 0
    every = sum(1 << i for group in groups for i in group)
    names = [named(graph.calls[group[0]].name) for group in groups]
    for group, name in zip(groups, names, strict=True):
        own = reach[group[0]] & every
        if own != before:
            missing = next(n for n, other in zip(names, groups, strict=True) if before & ~own & 1 << other[0])
            raise UnsupportedModelError(
                f"{name} does not depend on {missing}, which ran before it: {graph.model} runs several passes over "
                "the image, several towers, an ensemble or parallel branches, not layers in series. Explain one of "
                "them."
            )
        if len(group) > 1:
            _check_one_map(graph, group)
        before |= sum(1 << i for i in group)


def _check_one_map(graph: Graph, group: tuple[int, ...]) -> None:
    """Raise UnsupportedModelError unless parallel calls are the heads of one layer, joined by a concatenation."""
    calls = [graph.calls[i] for i in group]
    joints = [_joint(graph, node_of(call.outputs[0])) for call in calls]
    if all(joint is not None and joint is joints[0] for joint in joints):
        return
    names = list(dict.fromkeys(named(call.name) for call in calls))
    where = (
        f"{names[0]} combines" if len(names) == 1 else f"{' and '.join(names[:2])} run side by side and combine"
    )
    raise UnsupportedModelError(
        f"{where} {len(calls)} attention maps into one (differential attention, parallel branches, several passes over "
        "the image, or an ensemble), so none of them is the attention of the layer. Explain a ViT with one softmax per "
        "layer, or one of the branches."
    )


def _joint(graph: Graph, node: Node) -> Node | None:
    """Follow an output through changes of its shape to the concatenation that it ends in, if any."""
    while True:
        consumers = graph.consumers(node)
        if len(consumers) != 1:
            return None
        node = consumers[0]
        name = name_of(node).removesuffix("Backward0").removesuffix("Backward1")
        if name in ("Cat", "Stack"):
            return node
        if not any(move in name for move in _MOVES):
            return None


def _check_entrance(graph: Graph, first: tuple[int, ...]) -> None:
    """Raise UnsupportedModelError if the image enters the layers again, after the first one.

    Only the residual connection may carry features from before the first attention past it, as tokens.
    """
    call = graph.calls[first[0]]
    tokens = call.query.shape[-2]
    embedding = ancestors([node_of(tensor) for tensor in _inputs(call)], graph.marks)
    for node in graph.found:
        if node in embedding:
            continue
        for parent, which in node.next_functions:
            if embedding.get(parent, 0) & graph.image_bit and not _of_tokens(parent, which, tokens):
                raise UnsupportedModelError(
                    f"the image enters {graph.model} again after {named(call.name)}, its first attention: it runs "
                    "several passes over the image, several towers or an ensemble, or attends among pooled tokens "
                    "next to a path of all tokens. Explain one of them."
                )


def _of_tokens(node: Node, which: int, tokens: int) -> bool:
    """Check whether an output of a node has an axis of tokens, or two of patches: a prefix may be added later."""
    shape = tuple(node._input_metadata[which].shape) if node._input_metadata else ()
    if len(shape) < 4 or tokens in shape:
        return True
    return any(tokens - PREFIX <= rows * cols <= tokens for rows, cols in (shape[1:3], shape[2:4]))
