"""Read what a model does with an image from one recorded forward pass: patches, layers, and what the output reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnobservableModelError, UnsupportedModelError, named
from vit_interactions.attention.graph import ancestors, node_of, noise
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

APART = 0.1  # fraction of the pixels of some tokens that one head may see and the others not
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # endings of parameter names


class ObservedCall(NamedTuple):
    """An attention call of the probe's pass: name of its module, and (heads, queries, width) of its query."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """The behavior of a model for images of one size.

    Attributes:
        image_size: (height, width) in pixels.
        layout: positions of the patches among the tokens, and the tokens that the output is read from.
        calls: the attention calls of a forward pass, in order; None if they could not be observed.
        structure: the calls of each layer; None if they could not be observed.
        unobserved: why the model could not be observed and the layout is a declared one; "" if it was observed.
        alike: whether all numbers that the model returns are read in this way. If not, it depends on `target`.

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
        """Return the role of a call in a later pass of `batch` images, in which `index` calls came before it.

        Returns:
            The number of calls in its layer; "pool" for a pooling head; None for a call that does not matter.

        Raises:
            UnsupportedModelError: another call than the probe saw at this index.
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
                f"{named(call.name)} attends with a query of shape {shape}. For a random image, this attention call "
                f"was {was} per image. The model's layers depend on the image (early exit, routing, dropped tokens) or "
                "on the batch. Use a model with fixed layers."
            )
        if index == self.structure.pool:
            return "pool"
        return next((len(layer) for layer in self.structure.layers if index in layer), None)

    def agrees(self, other: "Probe") -> bool:
        """Return whether another probe found the same layout, apart from shares, and the same layers."""
        layout = replace(self.layout, shares=other.layout.shares)
        return (layout, self.calls, self.structure) == (other.layout, other.calls, other.structure)

    def has_shares_of(self, other: "Probe") -> bool:
        """Return whether tokens have the same shares in the output as in another probe."""
        first, second = (torch.tensor(found.layout.shares or ()) for found in (self, other))
        return first.shape == second.shape and torch.allclose(first, second, rtol=1e-2, atol=1e-5)

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
            plural = "s" if ignored > 1 else ""
            parts.append(f"{ignored} attention call{plural} that the output does not depend on")
        return ", ".join(parts)


def examine(
    model: nn.Module,
    image: Tensor,
    calls: Sequence[AttentionCall],
    output: Tensor,
    alone: bool = True,
    whole: Tensor | None = None,
) -> Probe:
    """Read what a model does from a recorded forward pass.

    Args:
        model: the model, for its name and its class token.
        image: (batch, channels, height, width), the leaf of the graph.
        calls: all attention calls, in order.
        output: the tensor to trace: one that the model returned, or computed from that.
        alone: whether the model returned no other tensor that depends on the image.
        whole: a scalar of all numbers that the model returned, if `output` is only a part of them.

    Raises:
        UnobservableModelError: the output has no gradient with respect to the image.
        UnsupportedModelError: attention that is not from every patch to every patch of the image.
    """
    name = type(model).__name__
    graph = Graph(name, image, calls, output)
    if whole is not None:
        graph.score &= ~_unread(graph, whole)
    structure = read_structure(graph)
    check_finite([call.name for call in calls], [call.output.isfinite().all() for call in calls])
    size = (image.shape[-2], image.shape[-1])
    first = [calls[i] for i in structure.layers[0]]
    for call in first:
        check_heads(call, image)
    grid, extent = _place(name, first, image)
    check_unmixed(graph, structure, grid)
    tokens = len(grid.prefix) + len(grid.order)
    reading = _read_by(graph, structure, tokens)
    if not reading.apart:
        raise UnsupportedModelError(_mixed(name, calls[structure.layers[-1][0]].name, "the output"))
    groups = [set(group) for group in reading.groups if output.ndim <= 2]
    known = _reads_latents_alike(graph, structure) if output.ndim <= 2 else _is_tokens(output, grid)
    known = known and reading.complete
    # Prefix tokens that are read come first, wherever they are in the model.
    read_first = sorted(grid.prefix, key=lambda token: {token} not in groups)
    order = (*read_first, *grid.order)
    readout = _readout(model, groups, grid, structure.pool is not None) if known else "other"
    shares = None  # where the readout implies them
    if known and structure.pool is None and reading.shares is not None and readout in ("token_avg", "other"):
        shares = tuple(reading.shares[token] for token in order)
    layout = TokenLayout(
        prefix=len(grid.prefix),
        rows=grid.rows,
        cols=grid.cols,
        readout=readout,
        extent=extent,
        pool_prefix=bool(grid.prefix) and groups == [set(range(tokens))],
        order=None if order == tuple(range(tokens)) else order,
        shares=shares,
    )
    observed = tuple(ObservedCall(call.name, tuple(call.query.shape[1:])) for call in calls)
    alike = alone and known and _is_alike(graph, structure, reading)
    return Probe(size, layout, observed, structure, alike=alike)


def _unread(graph: Graph, whole: Tensor) -> int:
    """Return the bits of the calls that the whole output depends on, but not this part."""
    outputs = [call.outputs[0] for call in graph.calls if call.outputs[0].requires_grad]
    part, all_of_it = (
        torch.autograd.grad(score.sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for score in (graph.output, whole)
    )
    unread = [
        node_of(o) for o, own, other in zip(outputs, part, all_of_it, strict=True) if other.any() > own.any()
    ]
    return sum(graph.marks[node] for node in unread)


def _is_alike(graph: Graph, structure: Structure, reading: Reading) -> bool:
    """Check whether all numbers of an output are read from the same tokens."""
    if graph.output.ndim > 2 or structure.pool is not None or graph.output.numel() <= len(graph.image):
        return graph.output.ndim <= 2 and (structure.pool is None or not reading.groups)
    if len(reading.groups) == 1:
        return True
    outputs = [output for i in structure.layers[-1] for output in graph.calls[i].outputs]
    return 0 < len(reading.groups) <= GROUPS and reads_every_group(graph.output, outputs, reading.groups)


def check_heads(call: AttentionCall, image: Tensor) -> None:
    """Raise UnsupportedModelError if the heads of a first layer see different parts of the image: they are windows."""
    heads, tokens = call.value.shape[1:3]
    half = _half(tokens).to(call.value.device)
    every = _pixels_of(call.value, image, half) if heads > 1 else torch.zeros(0)
    if not every.any():
        return
    # A pruned head sees nothing, so it is skipped.
    seen = (_pixels_of(call.value[:, head : head + 1], image, half) for head in range(heads))
    if (next(filter(torch.any, seen)) ^ every).sum() > APART * every.sum():
        raise UnsupportedModelError(
            windowed(call, "and the axis of its heads covers different parts of the image")
        )


def _half(tokens: int) -> Tensor:
    """Draw a random half of the indices of tokens."""
    return torch.randperm(tokens, generator=torch.Generator().manual_seed(0))[: (tokens + 1) // 2]


def _place(model: str, first: Sequence[AttentionCall], image: Tensor) -> tuple[PatchGrid, tuple[int, int]]:
    """Find the patches among the tokens of the first layer, and the (height, width) of pixels that they cover."""
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
            f"the patches of {model} cannot be placed: {error}. Use a Vision Transformer whose tokens form a regular "
            f"grid of patches and are not mixed before {named(first[0].name)}, its first attention."
        ) from error


def _reads_latents_alike(graph: Graph, structure: Structure) -> bool:
    """Check whether the output reads all latents of a pooling head alike."""
    if structure.pool is None or (latents := graph.calls[structure.pool].query.shape[-2]) == 1:
        return True
    groups = _read_from(graph, [structure.pool], latents).groups
    return groups in ([], [list(range(latents))])


def _is_tokens(output: Tensor, grid: PatchGrid) -> bool:
    """Check whether an output has the shape of all tokens or patches, or of the grid of patches."""
    patches = len(grid.order)
    shape = tuple(output.shape[1:])
    in_rows = any(pair == (grid.rows, grid.cols) for pair in pairwise(shape))
    return in_rows or patches in shape or patches + len(grid.prefix) in shape


def _readout(model: nn.Module, groups: list[set[int]], grid: PatchGrid, pools: bool) -> Readout:
    """Name the way in which tokens are read, from the groups that are read alike."""
    prefix, patches = set(grid.prefix), set(grid.order)
    if pools:
        return "other" if groups else "map"
    if not groups:  # the output is all tokens; users read the class token, if any
        names = (name for name, _ in model.named_parameters())
        return "token" if prefix and any(name.endswith(CLASS_TOKENS) for name in names) else "avg"
    single = [group for group in groups if len(group) == 1 and group <= prefix]
    read = set().union(*groups)
    if read <= prefix and len(read) <= 2:
        return "token" if len(read) == 1 else "distilled"
    if groups in ([patches], [patches | prefix]):
        return "avg"
    return "token_avg" if len(groups) == 2 and len(single) == 1 and patches in groups else "other"


def check_unmixed(graph: Graph, structure: Structure, grid: PatchGrid) -> None:
    """Raise UnsupportedModelError if tokens exchange information other than by the recorded attention.

    With the gradients of all attention outputs zeroed, half of the tokens of the last layer must depend on exactly the
    pixels that feed the same tokens of the first layer.
    """
    image = graph.image
    layers = [[graph.calls[i] for i in layer] for layer in structure.layers]
    if structure.pool is not None:
        layers.append([graph.calls[structure.pool]])
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
    # If patches overlap, or some are blank, take the pixels of the first layer instead.
    if any(not torch.equal(_pixels_of(first, image, half), pixels) for pixels in later):
        raise UnsupportedModelError(_mixed(graph.model, layers[0][0].name, named(layers[-1][0].name)))


def _mixed(model: str, first: str, last: str) -> str:
    return (
        f"tokens of {model} exchange information between {named(first)} and {last} other than by the attention that "
        "was read: by attention in a form that cannot be read, a convolution among tokens, or tokens that change "
        "places. So attention alone does not explain the model. Use a plain ViT, or the model's "
        "scaled_dot_product_attention implementation."
    )


def _pixels_of(value: Tensor, image: Tensor, tokens: Tensor) -> Tensor:
    """Mark the pixels that feed some tokens of a value, (height, width) bool."""
    chosen = value[:, :, tokens]
    (gradient,) = torch.autograd.grad(chosen, image, noise(chosen, seed=1), retain_graph=True)
    return gradient[0].ne(0).any(0)


def _read_by(graph: Graph, structure: Structure, tokens: int) -> Reading:
    """Find the tokens that the output is read from without a pooling head."""
    layers = sum(1 << i for layer in structure.layers for i in layer)
    if structure.pool is not None and not graph.behind_output[node_of(graph.output)] & layers:
        return Reading([])
    return _read_from(graph, structure.layers[-1], tokens)


def _read_from(graph: Graph, last: Sequence[int], tokens: int) -> Reading:
    """Find the rows of the calls' outputs that the output is read from."""
    outputs = [output for i in last for output in graph.calls[i].outputs]
    # Weights per token must lie behind the tensor that `read_tokens` inspects, to show in its gradient.
    layer = sum(1 << i for i in last)
    weighing = {
        node: graph.image_bit << 1
        for node, bits in graph.behind_output.items()
        if bits & layer and weighs_places(node, tokens)
    }
    behind = ancestors([node_of(graph.output)], {**graph.marks, **weighing}, graph.image_bit - 1)
    nodes = [node for node, bits in behind.items() if not bits & graph.image_bit << 1]
    earlier = [output for i, call in enumerate(graph.calls) if i < last[0] for output in call.outputs]
    earlier = [output for output in earlier if output.requires_grad]
    return read_tokens((graph.output * noise(graph.output)).sum(), outputs, nodes, tokens, earlier)
