"""Observe what a model does with an image: its patches, its attention calls, and what its output is read from.

Nothing of it is taken from the model's attributes: one forward pass of a random image leaves a graph that holds all of
it (docs/design.md, "See where the image goes").
"""

import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.declared import declared_layout, stated_layout
from vit_interactions.attention.errors import (
    ImagesNotTakenError,
    UnobservableModelError,
    UnprobedModelWarning,
    UnsupportedModelError,
)
from vit_interactions.attention.evaluation_copy import evaluated, originals
from vit_interactions.attention.graph import Node, ancestors, node_of
from vit_interactions.attention.layout import Readout, TokenLayout
from vit_interactions.attention.patches import PatchGrid, find_patches
from vit_interactions.attention.readout import read_groups
from vit_interactions.attention.record import AttentionCall, AttentionRecord, check_finite, intercept_unnoticed
from vit_interactions.attention.structure import Graph, Structure, read_structure
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.functional.checks import check_pair

# What transformers' outputs call the tensor that their users read, in the order in which it is looked for.
OUTPUTS = ("logits", "pooler_output", "image_embeds", "last_hidden_state")
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # ends of the names of class tokens' parameters
REMEMBERED = 8  # probes of one model
_SIMPLE = (bool, int, float, str, type(None))
_probes: weakref.WeakKeyDictionary[nn.Module, dict[Any, "Probe | UnsupportedModelError"]] = (
    weakref.WeakKeyDictionary()
)


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
    """What a model does with an image of one size.

    Attributes:
        image_size: (height, width) in pixels.
        layout: where the patches are among the tokens, and what the output is read from.
        calls: the attention calls of a forward pass, in order; None where they could not be observed.
        structure: which calls make up which layer; None where they could not be observed.
        unobserved: why the model could not be observed, so that its layout is what it declares; "" if it was.
    """

    image_size: tuple[int, int]
    layout: TokenLayout
    calls: tuple[ObservedCall, ...] | None
    structure: Structure | None
    unobserved: str = ""

    def role(self, index: int, call: AttentionCall, batch: int) -> int | Literal["pool"] | None:
        """Tell what a call of a later pass is.

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
            return "pool" if call.is_pooling else 1
        shape = tuple(call.query.shape)
        expected = self.calls[index] if index < len(self.calls) else None
        if expected is None or (call.name, shape[1:]) != (expected.name, expected.shape) or shape[0] != batch:
            was = f"`{expected.name}` with {expected.shape}" if expected else "none"
            raise UnsupportedModelError(
                f"`{call.name}` attends with a query of shape {shape}, but for a random image the attention call at this "
                f"place was {was} for each image: what the model does depends on the image (early exit, routing, dropped "
                "tokens) or on the batch, so that its layers are not the same for all images."
            )
        if index == self.structure.pool:
            return "pool"
        return next((len(layer) for layer in self.structure.layers if index in layer), None)

    def __str__(self) -> str:
        """Say it in words.

        Example:
            >>> import timm
            >>> print(probe(timm.create_model("test_vit"), (160, 160)))
            10 x 10 patches of 16 x 16 px, 1 prefix token, read from: class token, 6 layers in series
        """
        if self.structure is None:
            return f"{self.layout} (declared, not observed: {self.unobserved})"
        count = len(self.structure.layers)
        parts = [str(self.layout), f"{count} layer{'s in series' if count > 1 else ''}"]
        if ignored := len(self.structure.ignored):
            parts.append(f"{ignored} attention call{'s' if ignored > 1 else ''} without part in the output")
        return ", ".join(parts)


def probe(
    model: nn.Module, inputs_or_size: Tensor | tuple[int, int], additional_forward_args: Any = None
) -> Probe:
    """Observe what a model does with an image, once for each size of image and structure of arguments.

    A random image runs forward through the model, in evaluation mode; the graph of the pass tells the rest. What was
    seen is remembered until the model's modules or settings change.

    Args:
        model: any model; wrappers such as torch.compile's are looked into.
        inputs_or_size: images (batch, channels, height, width) as the model will be given, or their (height, width).
        additional_forward_args: further positional arguments of the model; a tuple is spread.

    Raises:
        UnsupportedModelError: a model whose attention is not from every patch to every patch of one image.
        ValueError: images that the model does not take; a stated layout that contradicts what is observed.
        TypeError: neither images nor a size.

    Warns:
        UnprobedModelWarning: the model's output depends on the image by no gradient (int8, a backbone without
            gradients), so that the layout is the stated or declared one.

    Example:
        >>> import timm
        >>> probe(timm.create_model("vit_tiny_patch16_224"), (224, 224)).layout.grid
        (14, 14)
    """
    model = unwrap(model)
    if not isinstance(inputs_or_size, tuple | list):
        check_images(model, inputs_or_size)
    root = next(iter(originals(model).values()), model)
    image = _random_image(model, inputs_or_size)
    batch = inputs_or_size.shape[0] if isinstance(inputs_or_size, Tensor) else 1
    arguments = tuple(_of_one(argument, batch) for argument in as_arguments(additional_forward_args))
    key = tuple(image.shape), image.dtype, image.device, *map(_kind, arguments), _signature(root)
    known = _probes.setdefault(root, {})
    if key not in known:
        try:
            known[key] = _with_statement(_probe_any(model, image, arguments, batch, additional_forward_args), root)
        except UnsupportedModelError as error:
            known[key] = error
        for old in list(known)[:-REMEMBERED]:
            del known[old]
    found = known[key]
    if isinstance(found, UnsupportedModelError):
        raise type(found)(*found.args)
    if found.unobserved:
        warnings.warn(
            f"{type(root).__name__} cannot be observed: {found.unobserved} Its patches are taken to be as declared: "
            f"{found.layout}.",
            UnprobedModelWarning,
            stacklevel=2,
        )
    return found


def token_layout(model: nn.Module, image_size: tuple[int, int]) -> TokenLayout:
    """Find where the patches of an image are in a model's token sequence, by `probe`.

    Args:
        model: any ViT; alone, wrapped, or inside a larger module.
        image_size: (height, width) of the input in pixels.

    Raises:
        UnsupportedModelError: the model has no patches, or they cannot be placed.
        ValueError: no pair of positive ints, or the model does not take images of this size.

    Example:
        >>> import timm
        >>> token_layout(timm.create_model("vit_tiny_patch16_224"), (224, 224)).grid
        (14, 14)
    """
    return probe(model, check_pair("image_size", image_size)).layout


def as_arguments(additional_forward_args: Any) -> tuple[Any, ...]:
    """Spread captum's `additional_forward_args`: None, one argument, or a tuple of them."""
    if additional_forward_args is None:
        return ()
    if isinstance(additional_forward_args, tuple):
        return additional_forward_args
    return (additional_forward_args,)


def check_images(model: nn.Module, inputs: Any) -> None:
    """Raise unless inputs are a batch of images of the model's type and device.

    Raises:
        TypeError: no tensor, or not the floating-point type of the model's weights.
        ValueError: not four axes, an empty batch, or another device.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"`inputs` must be a tensor, got {type(inputs).__name__}.")
    if inputs.ndim != 4 or 0 in inputs.shape:
        raise ValueError(f"`inputs` must have shape (batch, channels, height, width), got {tuple(inputs.shape)}.")
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return
    if inputs.device != weight.device:
        raise ValueError(f"`inputs` must be on the model's device {weight.device}, got {inputs.device}.")
    if inputs.dtype != weight.dtype and not torch.is_autocast_enabled(inputs.device.type):
        raise TypeError(f"`inputs` must be {weight.dtype} like the model, got {inputs.dtype}.")


def _random_image(model: nn.Module, inputs_or_size: Tensor | tuple[int, int]) -> Tensor:
    """Draw an image like the given ones, (1, channels, height, width), by a generator of its own."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if isinstance(inputs_or_size, Tensor):
        shape, device, dtype = inputs_or_size.shape[1:], inputs_or_size.device, inputs_or_size.dtype
    else:
        shape = torch.Size((_channels(model), *check_pair("inputs_or_size", inputs_or_size)))
        device, dtype = (torch.device("cpu"), torch.float32) if weight is None else (weight.device, weight.dtype)
    generator = torch.Generator(device="cpu").manual_seed(0)
    return torch.rand((1, *shape), generator=generator, device="cpu").to(device, dtype)


def _channels(model: nn.Module) -> int:
    """Return the channels of the images that a model takes, as its first convolution tells, or 3."""
    first = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
    return int(getattr(model, "in_chans", first))


def _of_one(argument: Any, batch: int) -> Any:
    """Take the part of an argument that belongs to the first of the images."""
    rows = isinstance(argument, Tensor) and argument.ndim > 0 and argument.shape[0] == batch
    return argument[:1] if rows else argument


def _kind(argument: Any) -> Any:
    """Say what kind of argument it is, and the value of a simple one, as a key."""
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype
    return argument if isinstance(argument, _SIMPLE) else type(argument)


def _signature(model: nn.Module) -> int:
    """Sum up the modules of a model and their plain settings, so that a change of either shows."""
    return hash(
        tuple(
            (name, id(module), *[value for value in vars(module).values() if isinstance(value, _SIMPLE)])
            for name, module in model.named_modules()
        )
    )


def _with_statement(found: Probe, model: nn.Module) -> Probe:
    """Compare with what the user stated, which takes the place of a declaration.

    Raises:
        ValueError: a statement that contradicts what was observed.
    """
    stated = stated_layout(model)
    if stated is None:
        return found
    if found.unobserved:
        return replace(found, layout=stated)
    if stated != replace(found.layout, order=stated.order):
        raise ValueError(
            f"`layout`, stated for {type(model).__name__}, must be what the model does with an image of "
            f"{found.image_size[0]} x {found.image_size[1]} pixels: {found.layout}; got {stated}."
        )
    return found


def _probe_any(
    model: nn.Module, image: Tensor, arguments: tuple[Any, ...], batch: int, additional_forward_args: Any
) -> Probe:
    """Probe with one image, or with as many as were given where the model takes no other number."""
    try:
        return _probe(model, image, arguments)
    except ImagesNotTakenError:
        if batch == 1:
            raise
        images = image.repeat(batch, 1, 1, 1)
        return _probe(model, images, as_arguments(additional_forward_args))


def _probe(model: nn.Module, image: Tensor, arguments: tuple[Any, ...]) -> Probe:
    size = (image.shape[-2], image.shape[-1])
    own = evaluated(model)
    record = AttentionRecord(own, declared_layout)
    calls: list[AttentionCall] = []
    # Neither the caller's `no_grad` nor `inference_mode` may keep the graph from being built.
    with torch.inference_mode(False), torch.enable_grad():
        leaf = image.clone().requires_grad_()
        with intercept_unnoticed(record, own, calls.append):
            output = _run(own, leaf.clone(), arguments)
        record.check_read()
        try:
            return examine(own, leaf, calls, output)
        except UnobservableModelError as error:
            return Probe(size, declared_layout(model, size), None, None, str(error))


def _run(model: nn.Module, image: Tensor, arguments: tuple[Any, ...]) -> Any:
    """Run the model on the random image, which is not a leaf: a model may write to it.

    Raises:
        ImagesNotTakenError: the model does not take such images.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    try:
        # What was created in inference mode takes no part in a graph.
        if any(tensor.is_inference() for tensor in tensors.values()):
            return torch.func.functional_call(
                model, {k: v.clone() for k, v in tensors.items()}, (image, *arguments)
            )
        return model(image, *arguments)
    except (UnsupportedModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models raise anything at images that they do not take
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise ImagesNotTakenError(
            f"`inputs` must be images that {type(model).__name__} takes, got {' x '.join(map(str, image.shape[1:]))} "
            f"{str(image.dtype).removeprefix('torch.')} on {image.device}, for which it fails with {type(error).__name__}: "
            f"{reason} Resize or convert the images, or build the model for them."
        ) from error


def examine(model: nn.Module, image: Tensor, calls: Sequence[AttentionCall], output: Any) -> Probe:
    """Read what a model does from a recorded forward pass.

    Args:
        model: the model, for its name and its class token.
        image: (batch, channels, height, width), the leaf from which the pass began.
        calls: all attention calls, in order.
        output: what the model returned.

    Raises:
        UnobservableModelError: the output does not depend on the image by any gradient.
        UnsupportedModelError: attention that is not from every patch to every patch of the image.
    """
    name = type(model).__name__
    answer = main_output(output)
    graph = Graph(name, image, calls, answer)
    structure = read_structure(graph)
    check_finite([call.name for call in calls], [call.output.isfinite().all() for call in calls])
    size = (image.shape[-2], image.shape[-1])
    grid, extent = _place(name, [calls[i] for i in structure.layers[0]], image)
    check_unmixed(name, image, calls, structure)
    tokens = len(grid.prefix) + len(grid.order)
    groups = [
        set(group)
        for group in _read_by(graph, answer, [calls[i] for i in structure.layers[-1]], structure, tokens)
    ]
    # Prefix tokens that are read come first, whatever their place in the model.
    read_first = sorted(grid.prefix, key=lambda token: {token} not in groups)
    order = (*read_first, *grid.order)
    layout = TokenLayout(
        prefix=len(grid.prefix),
        rows=grid.rows,
        cols=grid.cols,
        readout=_readout(model, groups, grid, structure.pool is not None),
        extent=extent,
        pool_prefix=bool(grid.prefix) and groups == [set(range(tokens))],
        order=None if order == tuple(range(tokens)) else order,
    )
    observed = tuple(ObservedCall(call.name, tuple(call.query.shape[1:])) for call in calls)
    return Probe(size, layout, observed, structure)


def _place(model: str, first: Sequence[AttentionCall], image: Tensor) -> tuple[PatchGrid, tuple[int, int]]:
    """Find the patches among the tokens of the first layer, and the pixels that they cover."""
    try:
        grids = [find_patches(call.value, image) for call in first]
        if any(grid != grids[0] for grid in grids):
            raise ValueError("its heads attend among other patches each")
        return grids[0], grids[0].extent((image.shape[-2], image.shape[-1]))
    except ValueError as error:
        raise UnsupportedModelError(
            f"the patches of {model} cannot be placed: {error}. Give a Vision Transformer whose tokens are a regular "
            "grid of patches."
        ) from error


def _readout(model: nn.Module, groups: list[set[int]], grid: PatchGrid, pools: bool) -> Readout:
    """Name the way in which tokens are read."""
    prefix, patches = set(grid.prefix), set(grid.order)
    if pools:
        return "other" if groups else "map"
    if not groups:  # the output is the tokens themselves, of which the class token is read where there is one
        names = (name for name, _ in model.named_parameters())
        return "token" if prefix and any(name.endswith(CLASS_TOKENS) for name in names) else "avg"
    single = [group for group in groups if len(group) == 1 and group <= prefix]
    if len(groups) == len(single) <= 2:
        return "token" if len(groups) == 1 else "distilled"
    if groups in ([patches], [patches | prefix]):
        return "avg"
    return "token_avg" if len(groups) == 2 and len(single) == 1 and patches in groups else "other"


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

    With the gradient of all attention outputs left out, half of the tokens of the last layer must depend on the very
    pixels that feed the same tokens of the first layer.
    """
    layers = [[calls[i] for i in layer] for layer in structure.layers]
    if len(layers) < 2:
        return
    first, last = layers[0][0].value, layers[-1][0].value
    generator = torch.Generator().manual_seed(0)
    half = torch.randperm(first.shape[-2], generator=generator)[: first.shape[-2] // 2].to(first.device)
    handles = [
        node_of(call.outputs[0]).register_prehook(lambda gradients: (None,) * len(gradients))
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


def _pixels_of(value: Tensor, image: Tensor, tokens: Tensor) -> Tensor:
    """Mark the pixels that feed some tokens, (height, width) bool."""
    generator = torch.Generator().manual_seed(1)
    chosen = value[:, :, tokens]
    weights = torch.randn(chosen.shape, generator=generator).to(chosen.device, chosen.dtype)
    (gradient,) = torch.autograd.grad(chosen, image, weights, retain_graph=True)
    return gradient[0].ne(0).any(0)


def _read_by(
    graph: Graph, answer: Tensor, last: Sequence[AttentionCall], structure: Structure, tokens: int
) -> tuple[tuple[int, ...], ...]:
    """Group the tokens that the answer is read from otherwise than by a pooling head."""
    if answer.ndim > 2:
        return ()
    every = (1 << len(graph.calls)) - 1
    between: dict[Node, int] = ancestors([node_of(answer)], graph.marks, every)
    layers = sum(1 << i for layer in structure.layers for i in layer)
    if structure.pool is not None and not between[node_of(answer)] & layers:
        return ()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(answer.shape, generator=generator).to(answer.device, answer.dtype)
    groups = read_groups(
        (answer * weights).sum(), [output for call in last for output in call.outputs], list(between), tokens
    )
    return tuple(map(tuple, groups))
