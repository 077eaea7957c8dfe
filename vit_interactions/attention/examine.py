"""Read what a model does with an image from one recorded forward pass: patches, layers, and what the output reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnobservableModelError, UnsupportedModelError, named
from vit_interactions.attention.graph import Node, ancestors, node_of, noise
from vit_interactions.attention.layout import Readout, TokenLayout
from vit_interactions.attention.patches import PatchGrid, find_patches
from vit_interactions.attention.probing.readout import (
    GROUPS,
    Reading,
    read_tokens,
    reads_every_group,
    weighs_places,
)
from vit_interactions.attention.record import AttentionCall, check_finite
from vit_interactions.attention.structure import Graph, Structure, read_structure, windowed

APART = 0.1  # share of the pixels of some tokens that one head may see and the others not
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # ends of the names of class tokens' parameters


@dataclass(frozen=True)
class ObservedCall:
    """One attention call of the probe's pass.

    Attributes:
        name: the module that made it.
        shape: (heads, queries, width) of its query.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """The behavior of a model for images of one size.

    Attributes:
        image_size: (height, width) in pixels.
        layout: where the patches are among the tokens, and what the output is read from.
        calls: the attention calls of a forward pass, in order; None where they could not be observed.
        structure: which calls make up which layer; None where they could not be observed.
        unobserved: why the model could not be observed, so that its layout is what it declares; "" if it was.
        alike: whether all numbers that the model returns are read in this way; else `target` decides.

    Example:
        >>> layout = TokenLayout(prefix=1, rows=2, cols=2, readout="token", extent=(32, 32))
        >>> Probe((32, 32), layout, None, None, "It is quantized.").layout.grid
        (2, 2)
    """

    image_size: tuple[int, int]
    layout: TokenLayout
    calls: tuple[ObservedCall, ...] | None
    structure: Structure | None
    unobserved: str = ""
    alike: bool = True

    def role(self, index: int, call: AttentionCall, batch: int) -> int | Literal["pool"] | None:
        """Return the role of a call in a later pass.

        Args:
            index: how many calls came before it.
            call: as recorded.
            batch: images in the pass.

        Returns:
            Of how many calls its layer consists; "pool" for a pooling head's; None for one that does not matter.

        Raises:
            UnsupportedModelError: another call than the probe saw at this place.
        """
        if self.calls is None or self.structure is None:
            if not call.is_pooling and call.query.shape[-2] != self.layout.tokens:
                raise UnsupportedModelError(
                    f"{named(call.name)} attends among {call.query.shape[-2]} tokens, but the layout that is assumed "
                    f"has {self.layout.tokens}: {self.layout}. State the right one with `vi.state_layout`."
                )
            return "pool" if call.is_pooling else 1
        shape = tuple(call.query.shape)
        expected = self.calls[index] if index < len(self.calls) else None
        if expected is not None and index in self.structure.ignored and call.name == expected.name:
            return None
        if expected is None or (call.name, shape[1:]) != (expected.name, expected.shape) or shape[0] != batch:
            was = f"{named(expected.name)} with {expected.shape}" if expected else "none"
            raise UnsupportedModelError(
                f"{named(call.name)} attends with a query of shape {shape}, but for a random image the attention "
                "call at "
                f"this place was {was} for each image: what the model does depends on the image (early exit, routing, "
                "dropped tokens) or on the batch, so that its layers are not the same for all images."
            )
        if index == self.structure.pool:
            return "pool"
        return next((len(layer) for layer in self.structure.layers if index in layer), None)

    def __str__(self) -> str:
        """Describe the probe in one line.

        Example:
            >>> import timm
            >>> from vit_interactions import probe
            >>> print(probe(timm.create_model("test_vit"), (160, 160)))
            10 x 10 patches of 16 x 16 px, 1 prefix token, read from: class token, 6 layers in series
        """
        if self.structure is None:
            return f"{self.layout} (assumed, not observed: {self.unobserved})"
        count = len(self.structure.layers)
        parts = [str(self.layout), f"{count} layer{'s in series' if count > 1 else ''}"]
        if ignored := len(self.structure.ignored):
            parts.append(
                f"{ignored} attention call{'s' if ignored > 1 else ''} that the output does not depend on"
            )
        return ", ".join(parts)


def examine(
    model: nn.Module,
    image: Tensor,
    calls: Sequence[AttentionCall],
    answer: Tensor,
    alone: bool = True,
    whole: Tensor | None = None,
) -> Probe:
    """Read what a model does from a recorded forward pass.

    Args:
        model: the model, for its name and its class token.
        image: (batch, channels, height, width), the leaf from which the pass began.
        calls: all attention calls, in order.
        answer: of what the model returned, or computed from that, the tensor that is asked about.
        alone: whether the model returned no other tensor that depends on the image.
        whole: a scalar of all numbers of the tensors that `answer` is a part of, if it is one.

    Raises:
        UnobservableModelError: the output does not depend on the image by any gradient.
        UnsupportedModelError: attention that is not from every patch to every patch of the image.
    """
    name = type(model).__name__
    graph = Graph(name, image, calls, answer)
    if whole is not None:
        graph.score &= ~_unread(graph, answer, whole)
    structure = read_structure(graph)
    check_finite([call.name for call in calls], [call.output.isfinite().all() for call in calls])
    size = (image.shape[-2], image.shape[-1])
    first = [calls[i] for i in structure.layers[0]]
    for call in first:
        check_heads(call, image)
    grid, extent = _place(name, first, image)
    check_unmixed(name, image, calls, structure, grid)
    tokens = len(grid.prefix) + len(grid.order)
    reading = _read_by(graph, answer, structure, tokens)
    if not reading.apart:
        raise UnsupportedModelError(_mixed(name, calls[structure.layers[-1][0]].name, "the output"))
    groups = [set(group) for group in reading.groups if answer.ndim <= 2]
    known = _reads_latents_alike(graph, answer, structure) if answer.ndim <= 2 else _is_tokens(answer, grid)
    known = known and reading.complete
    # Prefix tokens that are read come first, whatever their place in the model.
    read_first = sorted(grid.prefix, key=lambda token: {token} not in groups)
    order = (*read_first, *grid.order)
    readout = _readout(model, groups, grid, structure.pool is not None) if known else "other"
    layout = TokenLayout(
        prefix=len(grid.prefix),
        rows=grid.rows,
        cols=grid.cols,
        readout=readout,
        extent=extent,
        pool_prefix=bool(grid.prefix) and groups == [set(range(tokens))],
        order=None if order == tuple(range(tokens)) else order,
        shares=_own_shares(readout, reading, order) if known and structure.pool is None else None,
    )
    observed = tuple(ObservedCall(call.name, tuple(call.query.shape[1:])) for call in calls)
    alike = alone and known and _is_alike(graph, answer, structure, reading)
    return Probe(size, layout, observed, structure, alike=alike)


def _unread(graph: Graph, answer: Tensor, whole: Tensor) -> int:
    """Return the bits of the calls that a part of an output does not depend on, but the whole does."""
    outputs = [call.outputs[0] for call in graph.calls if call.outputs[0].requires_grad]
    part, all_of_it = (
        torch.autograd.grad(score.sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for score in (answer, whole)
    )
    unread = [
        node_of(o) for o, own, other in zip(outputs, part, all_of_it, strict=True) if other.any() > own.any()
    ]
    return sum(graph.marks[node] for node in unread)


def _own_shares(readout: Readout, reading: Reading, order: Sequence[int]) -> tuple[float, ...] | None:
    """Return the observed shares of tokens where a readout alone does not tell them."""
    if reading.shares is None or readout not in ("token_avg", "other"):
        return None
    return tuple(reading.shares[token] for token in order)


def _is_alike(graph: Graph, answer: Tensor, structure: Structure, reading: Reading) -> bool:
    """Check whether all numbers of an output are read from the same tokens."""
    if answer.ndim > 2 or structure.pool is not None or answer.numel() <= len(graph.image):
        return answer.ndim <= 2 and (structure.pool is None or not reading.groups)
    if len(reading.groups) == 1:
        return True
    outputs = [output for i in structure.layers[-1] for output in graph.calls[i].outputs]
    return 0 < len(reading.groups) <= GROUPS and reads_every_group(answer, outputs, reading.groups)


def check_heads(call: AttentionCall, image: Tensor) -> None:
    """Raise UnsupportedModelError if what is taken for a head sees a part of the image: a window in a head's place.

    Args:
        call: of the first layer, in the graph of the image.
        image: (batch, channels, height, width), a leaf that requires gradients.
    """
    heads, tokens = call.value.shape[1:3]
    half = _half(tokens).to(call.value.device)
    every = _pixels_of(call.value, image, half) if heads > 1 else torch.zeros(0)
    if not every.any():
        return
    # A pruned head sees nothing, and says nothing.
    seen = (_pixels_of(call.value[:, head : head + 1], image, half) for head in range(heads))
    if (next(filter(torch.any, seen)) ^ every).sum() > APART * every.sum():
        raise UnsupportedModelError(
            windowed(call, "which has other tokens of the image in each place that heads would have")
        )


def _half(tokens: int) -> Tensor:
    """Draw half of the indices of tokens."""
    return torch.randperm(tokens, generator=torch.Generator().manual_seed(0))[: (tokens + 1) // 2]


def _place(model: str, first: Sequence[AttentionCall], image: Tensor) -> tuple[PatchGrid, tuple[int, int]]:
    """Find the patches among the tokens of the first layer, and the pixels that they cover."""
    try:
        grids = [find_patches(call.value, image) for call in first]
        if any(grid != grids[0] for grid in grids):
            raise ValueError("its heads attend among other patches each")
        return grids[0], grids[0].extent((image.shape[-2], image.shape[-1]))
    except ValueError as error:
        (gradient,) = torch.autograd.grad(first[0].value, image, noise(first[0].value), retain_graph=True)
        if not gradient.any():
            raise UnobservableModelError(
                f"the gradient of {model} at the image is zero everywhere: it rounds or thresholds the image."
            ) from error
        raise UnsupportedModelError(
            f"the patches of {model} cannot be placed: {error}. Give a Vision Transformer whose tokens are a regular "
            f"grid of patches, mixed by nothing before {named(first[0].name)}, the first attention that was read."
        ) from error


def _reads_latents_alike(graph: Graph, answer: Tensor, structure: Structure) -> bool:
    """Check whether all latents of a pooling head count equally."""
    if structure.pool is None or (latents := graph.calls[structure.pool].query.shape[-2]) == 1:
        return True
    groups = _read_from(graph, answer, [structure.pool], latents).groups
    return groups in ([], [list(range(latents))])


def _is_tokens(answer: Tensor, grid: PatchGrid) -> bool:
    """Test if an output (batch, tokens, width) or (batch, width, rows, cols) has a place for each token or patch."""
    patches = len(grid.order)
    shape = tuple(answer.shape[1:])
    in_rows = any(pair == (grid.rows, grid.cols) for pair in pairwise(shape))
    return in_rows or patches in shape or patches + len(grid.prefix) in shape


def _readout(model: nn.Module, groups: list[set[int]], grid: PatchGrid, pools: bool) -> Readout:
    """Name the way in which tokens are read."""
    prefix, patches = set(grid.prefix), set(grid.order)
    if pools:
        return "other" if groups else "map"
    if not groups:  # the output is the tokens themselves, of which the class token is read where there is one
        names = (name for name, _ in model.named_parameters())
        return "token" if prefix and any(name.endswith(CLASS_TOKENS) for name in names) else "avg"
    single = [group for group in groups if len(group) == 1 and group <= prefix]
    read = set().union(*groups)
    if read <= prefix and len(read) <= 2:
        return "token" if len(read) == 1 else "distilled"
    if groups in ([patches], [patches | prefix]):
        return "avg"
    return "token_avg" if len(groups) == 2 and len(single) == 1 and patches in groups else "other"


def check_unmixed(
    model: str, image: Tensor, calls: Sequence[AttentionCall], structure: Structure, grid: PatchGrid
) -> None:
    """Raise UnsupportedModelError if tokens exchange anything between layers by another way than the attention read.

    With the gradient of all attention outputs left out, half of the tokens of the last layer must depend on the very
    pixels that feed the same tokens of the first layer.
    """
    layers = [[calls[i] for i in layer] for layer in structure.layers]
    if structure.pool is not None:
        layers.append([calls[structure.pool]])
    first = layers[0][0].value
    # The last layer, and the pooling head, whose keys may be the patches only.
    ends = [layer[0].value for layer in layers[len(structure.layers) - 1 :] if layer is not layers[0]]
    ends = [end for end in ends if end.shape[-2] == first.shape[-2]]
    half = _half(first.shape[-2]).to(first.device)
    nodes = filter(None, (node_of(output) for layer in layers for call in layer for output in call.outputs))
    handles = [node.register_prehook(lambda gradients: (None,) * len(gradients)) for node in nodes]
    try:
        later = [_pixels_of(end, image, half) for end in ends]
    finally:
        for handle in handles:
            handle.remove()
    expected = grid.pixels(half, (image.shape[-2], image.shape[-1]))
    if all(torch.equal(expected, pixels.cpu()) for pixels in later):
        return
    # Where patches overlap, or some are blank, the first layer tells which pixels these are.
    if any(not torch.equal(_pixels_of(first, image, half), pixels) for pixels in later):
        raise UnsupportedModelError(_mixed(model, layers[0][0].name, named(layers[-1][0].name)))


def _mixed(model: str, first: str, last: str) -> str:
    return (
        f"tokens of {model} exchange information between {named(first)} and {last} other than by the attention that "
        "was "
        "read (attention in a form that cannot be read, a convolution among tokens, or tokens that change places), so "
        "that attention alone does not explain it. Use a plain ViT, or the model's scaled_dot_product_attention "
        "implementation."
    )


def _pixels_of(value: Tensor, image: Tensor, tokens: Tensor) -> Tensor:
    """Mark the pixels that feed some tokens, (height, width) bool."""
    chosen = value[:, :, tokens]
    (gradient,) = torch.autograd.grad(chosen, image, noise(chosen, seed=1), retain_graph=True)
    return gradient[0].ne(0).any(0)


def _read_by(graph: Graph, answer: Tensor, structure: Structure, tokens: int) -> Reading:
    """Find the tokens that the answer is read from otherwise than by a pooling head."""
    layers = sum(1 << i for layer in structure.layers for i in layer)
    if structure.pool is not None and not _between(graph, answer)[node_of(answer)] & layers:
        return Reading([])
    return _read_from(graph, answer, structure.layers[-1], tokens)


def _read_from(graph: Graph, answer: Tensor, last: Sequence[int], tokens: int) -> Reading:
    """Find which rows of the outputs of calls the answer is read from."""
    outputs = [output for i in last for output in graph.calls[i].outputs]
    between = _between(graph, answer)
    # What weighs tokens by their places must lie behind the tensor that is looked at, to show in its gradient.
    layer = sum(1 << i for i in last)
    weighing = {
        node: graph.image_bit << 1
        for node, bits in between.items()
        if bits & layer and weighs_places(node, tokens)
    }
    behind = ancestors([node_of(answer)], {**graph.marks, **weighing}, graph.image_bit - 1)
    nodes = [node for node, bits in behind.items() if not bits & graph.image_bit << 1]
    earlier = [output for i, call in enumerate(graph.calls) if i < last[0] for output in call.outputs]
    earlier = [output for output in earlier if output.requires_grad]
    return read_tokens((answer * noise(answer)).sum(), outputs, nodes, tokens, earlier)


def _between(graph: Graph, answer: Tensor) -> dict[Node, int]:
    """Walk from the answer back to the attention calls nearest to it."""
    return ancestors([node_of(answer)], graph.marks, (1 << len(graph.calls)) - 1)
