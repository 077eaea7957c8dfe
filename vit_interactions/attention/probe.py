"""Observe what a model does with an image: its patches, its attention calls, and what its output is read from.

Nothing of it is taken from the model's attributes: one forward pass of a random image leaves a graph that holds all of
it (docs/design.md, "See where the image goes").
"""

import warnings
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vit_interactions.attention.cuts import CutWatch
from vit_interactions.attention.declared import declared_layout, stated_layout
from vit_interactions.attention.errors import (
    ImagesNotTakenError,
    UnobservableModelError,
    UnprobedModelWarning,
    UnsupportedModelError,
)
from vit_interactions.attention.evaluation_copy import evaluated, originals
from vit_interactions.attention.examine import Probe, examine, main_output
from vit_interactions.attention.folded import check_folds, folded
from vit_interactions.attention.graph import ancestors, node_of
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.own_input import check_runnable
from vit_interactions.attention.record import AttentionCall, AttentionRecord, intercept_unnoticed
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.utilities.checks import check_pair

REMEMBERED = 8  # probes of one model
SAME = 1e-4  # relative difference up to which an answer is the same: what a cut changes is more, rounding is less
WITHOUT_ATTENTION = (
    "Methods that need no attention remain: attn_lrp, captum's (saliency, integrated_gradients, occlusion, ...) and "
    "pytorch-grad-cam's (gradcam, layercam, ...)."
)
_SIMPLE = frozenset({bool, int, float, str, type(None)})
_HOLDERS = frozenset({tuple, list, dict})
_OWN = frozenset(vars(nn.Module()))  # the mode is no setting: what is explained is the evaluation mode
_Found = TypeVar("_Found")
_probes: weakref.WeakKeyDictionary[nn.Module, dict[Any, "Probe | UnsupportedModelError"]] = (
    weakref.WeakKeyDictionary()
)


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
    asked = ask(model, inputs_or_size, additional_forward_args)

    def look() -> Probe | UnsupportedModelError:
        try:
            return _with_statement(_probe_any(asked, additional_forward_args), asked.root)
        except UnsupportedModelError as error:
            return error

    found = remembered(_probes, asked, look)
    if isinstance(found, UnsupportedModelError):
        raise type(found)(f"{found} {WITHOUT_ATTENTION}")
    if found.unobserved:
        warnings.warn(
            f"{type(asked.root).__name__} cannot be observed: {found.unobserved} Its patches are taken to be as "
            f"{'stated' if stated_layout(asked.root) else 'declared'}: {found.layout}.",
            UnprobedModelWarning,
            stacklevel=2,
        )
    return found


@dataclass(frozen=True, eq=False)
class Asked:
    """A model and the images to run it on.

    Attributes:
        model: unwrapped.
        root: the module that `model` is, or is a copy of; what was observed is remembered with it.
        shape: (channels, height, width) of the images.
        dtype: their type.
        device: where they are.
        arguments: further arguments of the model, of one image.
        batch: how many images were given.
        key: differs where what is observed may differ.
    """

    model: nn.Module
    root: nn.Module
    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    arguments: tuple[Any, ...]
    batch: int
    key: Any

    @cached_property
    def image(self) -> Tensor:
        """A random image (1, channels, height, width), by a generator of its own."""
        generator = torch.Generator(device="cpu").manual_seed(0)
        return torch.rand((1, *self.shape), generator=generator, device="cpu").to(self.device, self.dtype)


def ask(model: nn.Module, inputs_or_size: Tensor | tuple[int, int], additional_forward_args: Any) -> Asked:
    """Check the arguments of `probe`, and say what to run the model on."""
    model = unwrap(model)
    is_size = isinstance(inputs_or_size, tuple | list) and not any(isinstance(i, Tensor) for i in inputs_or_size)
    if not is_size:
        check_images(model, inputs_or_size)
    root = next(iter(originals(model).values()), model)
    shape, dtype, device = _kind_of_images(model, inputs_or_size)
    batch = inputs_or_size.shape[0] if isinstance(inputs_or_size, Tensor) else 1
    arguments = tuple(_of_one(argument, batch) for argument in as_arguments(additional_forward_args))
    key = shape, dtype, device, *map(_kind, arguments), stated_layout(root), _signature(root)
    return Asked(model, root, shape, dtype, device, arguments, batch, key)


def remembered(
    memory: weakref.WeakKeyDictionary[nn.Module, dict[Any, _Found]], asked: Asked, look: Callable[[], _Found]
) -> _Found:
    """Return what was seen of a model before, or look, and remember the last few."""
    known = memory.setdefault(asked.root, {})
    if asked.key not in known:
        check_runnable(asked.model)
        known[asked.key] = look()
        for old in list(known)[:-REMEMBERED]:
            del known[old]
    return known[asked.key]


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
        check_runnable(model)
        raise ValueError(f"`inputs` must be on the model's device {weight.device}, got {inputs.device}.")
    if inputs.dtype != weight.dtype and not torch.is_autocast_enabled(inputs.device.type):
        raise TypeError(f"`inputs` must be {weight.dtype} like the model, got {inputs.dtype}.")


def _kind_of_images(
    model: nn.Module, inputs_or_size: Tensor | tuple[int, int]
) -> tuple[tuple[int, int, int], torch.dtype, torch.device]:
    """Return (channels, height, width), type and device of the images that a model is given."""
    if isinstance(inputs_or_size, Tensor):
        channels, height, width = inputs_or_size.shape[1:]
        return (channels, height, width), inputs_or_size.dtype, inputs_or_size.device
    size = check_pair("inputs_or_size", inputs_or_size)
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    return (_channels(model), *size), weight.dtype, weight.device


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
    return argument if type(argument) in _SIMPLE else type(argument)


def _is_simple(value: Any) -> bool:
    return type(value) in _SIMPLE


def _signature(model: nn.Module) -> tuple[Any, ...]:
    """List the modules of a model, their hooks and plain settings, so that a change of any shows."""
    parts: list[Any] = []
    stack = [model]
    # Once per explanation: written for speed.
    while stack:
        module = stack.pop()
        own = vars(module)
        parts.append(id(module))
        for value in [value for name, value in own.items() if name not in _OWN]:
            if type(value) in _SIMPLE:
                parts.append(value)
            elif type(value) in _HOLDERS:
                parts += filter(_is_simple, value.values() if type(value) is dict else value)
        parts += own.get("_modules", ())
        parts += own.get("_forward_hooks", ())
        parts += own.get("_forward_pre_hooks", ())
        parts.append(id(own.get("forward")))
        # Scripted modules keep their parts elsewhere.
        children = own["_modules"].values() if "_modules" in own else module.children()
        stack += [child for child in children if child is not None]
    return tuple(parts)  # not its hash, which is the same for -1 and -2


def _with_statement(found: Probe, model: nn.Module) -> Probe:
    """Compare what was observed with what the user stated, where something was.

    Raises:
        ValueError: a statement that contradicts what was observed.
    """
    stated = stated_layout(model)
    if stated is None or found.unobserved:
        return found
    order = None if stated.order is None else found.layout.order
    if stated != replace(found.layout, order=order):
        raise ValueError(
            f"`layout`, stated for {type(model).__name__}, must be what the model does with an image of "
            f"{found.image_size[0]} x {found.image_size[1]} pixels: {found.layout}; got {stated}."
        )
    return found


def _probe_any(asked: Asked, additional_forward_args: Any) -> Probe:
    """Probe with one image, or with as many as were given where the model takes no other number."""
    try:
        return _probe(asked, asked.image, asked.arguments)
    except ImagesNotTakenError:
        if asked.batch == 1:
            raise
        images = asked.image.repeat(asked.batch, 1, 1, 1)
        return _probe(asked, images, as_arguments(additional_forward_args))


def _probe(asked: Asked, image: Tensor, arguments: tuple[Any, ...]) -> Probe:
    own = evaluated(asked.model)
    # Neither the caller's `no_grad` nor `inference_mode` may keep the graph from being built.
    with torch.inference_mode(False), torch.enable_grad():
        leaf = image.clone().requires_grad_()
        calls, output, watch = _record(own, leaf.clone(), arguments)
        try:
            found = examine(own, leaf, calls, output)
        except UnobservableModelError as error:
            return _unobserved(asked, str(error))
        except (RuntimeError, NotImplementedError) as error:
            if "derivative" not in str(error) and "not implemented" not in str(error):
                raise
            return _unobserved(asked, f"{str(error).splitlines()[0]}.")
        _check_cuts(own, leaf, arguments, watch, main_output(output))
    if folded(calls) and len(image) == 1:
        _check_folds(own, image, arguments, calls)
    return found


def _unobserved(asked: Asked, why: str) -> Probe:
    """Take the layout that the user stated, or else the one that the model declares."""
    size = asked.shape[1:]
    return Probe(size, stated_layout(asked.root) or declared_layout(asked.model, size), None, None, why)


def _record(
    model: nn.Module,
    image: Tensor,
    arguments: tuple[Any, ...],
    before: CutWatch | None = None,
    disturbed: Collection[int] = (),
) -> tuple[list[AttentionCall], Any, CutWatch]:
    """Run the model and record its attention calls and its cuts; `before` and `disturbed` are those of `CutWatch`."""
    record = AttentionRecord(model, declared_layout)
    calls: list[AttentionCall] = []
    with intercept_unnoticed(record, model, calls.append) as mode:
        mode.run = watch = CutWatch(mode.run, mode.running, before, disturbed)
        output = _run(model, image, arguments)
    record.check_read()
    return calls, output, watch


def _check_folds(
    model: nn.Module, image: Tensor, arguments: tuple[Any, ...], calls: Sequence[AttentionCall]
) -> None:
    """Raise UnsupportedModelError if heads are folded into the batch so that those of two images mix."""
    twice = tuple(torch.cat((a, a)) if isinstance(a, Tensor) and a.shape[:1] == (1,) else a for a in arguments)
    with torch.no_grad():
        try:
            beside, *_ = _record(model, torch.cat((image, 1 - image)), twice)
        except ImagesNotTakenError:  # one image at a time
            return
    check_folds(type(model).__name__, calls, beside)


def _check_cuts(
    model: nn.Module, leaf: Tensor, arguments: tuple[Any, ...], watch: CutWatch, answer: Tensor
) -> None:
    """Raise UnsupportedModelError if the answer depends on the image by a way that the gradient does not take."""
    reached = ancestors([node for _, node in watch.found], {node_of(leaf): 1})
    of_image = [index for index, (_, node) in enumerate(watch.found) if reached[node]]

    def matter(some: Collection[int]) -> bool:
        other = main_output(_record(model, leaf.clone(), arguments, watch, some)[1])
        return not (other - answer).norm() <= SAME * answer.norm()

    if of_image and matter(of_image):
        name = watch.found[next((index for index in of_image if matter([index])), of_image[0])][0]
        raise UnsupportedModelError(
            f"the output of {type(model).__name__} depends on the image by a way on which the gradient is cut, by a "
            f"detach or `torch.no_grad` in the forward of {f'`{name}`' if name else 'the model'}, so that what the "
            "model does cannot be observed. Remove the cut."
        )


def _run(model: nn.Module, image: Tensor, arguments: tuple[Any, ...]) -> Any:
    """Run the model on the random image, which is not a leaf: a model may write to it.

    Raises:
        ImagesNotTakenError: the model does not take such images.
    """
    try:
        return model(image, *arguments)
    except (UnsupportedModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models raise anything at images that they do not take
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason given"
        shape = " x ".join(map(str, image.shape[1:]))
        raise ImagesNotTakenError(
            f"`inputs` must be images that {type(model).__name__} takes, got {shape} "
            f"{str(image.dtype).removeprefix('torch.')} on {image.device}, for which it fails with "
            f"{type(error).__name__}: {reason}. Resize or convert the images, or build the model for them."
        ) from error
