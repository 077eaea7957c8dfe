"""Check the arguments of a probe, and cache its result per model."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vit_interactions.attention.declared import stated_layout
from vit_interactions.attention.evaluation_copy import MODULE_ATTRIBUTES, originals
from vit_interactions.attention.own_input import check_runnable
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.utilities.checks import check_pair

CACHED = 8  # kinds of images and arguments per model
GUESSED = "Its {channels} channels were guessed; pass a tensor of images instead of their size."
_SIMPLE = frozenset({bool, int, float, str, type(None)})
_SETTINGS = _SIMPLE | {FunctionType}
_HOLDERS = frozenset({tuple, list, dict})
_Found = TypeVar("_Found")


@dataclass(frozen=True, eq=False)
class ProbeRequest:
    """A model and the images to run it on.

    Attributes:
        model: unwrapped.
        root: `model`, or the module that it is a copy of; results are cached for it.
        shape: (channels, height, width) of the images.
        dtype: their type.
        device: their device.
        arguments: further arguments of the model, for one image.
        batch: number of images.
        key: the key of the result in the cache of `root`.
        guessed: advice for the case that the number of channels was guessed wrong.
    """

    model: nn.Module
    root: nn.Module
    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    arguments: tuple[Any, ...]
    batch: int
    key: Any
    guessed: str = ""

    @cached_property
    def image(self) -> Tensor:
        """A random image (1, channels, height, width); global generators do not advance."""
        generator = torch.Generator(device="cpu").manual_seed(0)
        return torch.rand((1, *self.shape), generator=generator, device="cpu").to(self.device, self.dtype)


def probe_request(
    model: nn.Module, inputs_or_size: Tensor | tuple[int, int], additional_forward_args: Any
) -> ProbeRequest:
    """Check the arguments of `probe`, and describe the images to run the model on."""
    model = unwrap(model)
    is_size = isinstance(inputs_or_size, tuple | list) and not any(isinstance(i, Tensor) for i in inputs_or_size)
    if not is_size:
        check_images(model, inputs_or_size)
    root = next(iter(originals(model).values()), model)
    shape, dtype, device = _kind_of_images(model, inputs_or_size)
    batch = inputs_or_size.shape[0] if isinstance(inputs_or_size, Tensor) else 1
    # Arguments with a row per image are cut to the first image.
    arguments = tuple(
        argument[:1] if isinstance(argument, Tensor) and argument.shape[:1] == (batch,) else argument
        for argument in as_arguments(additional_forward_args)
    )
    key = shape, dtype, device, *map(_kind, arguments), stated_layout(root), _signature(root)
    guessed = GUESSED.format(channels=shape[0]) if is_size else ""
    return ProbeRequest(model, root, shape, dtype, device, arguments, batch, key, guessed)


def cached(
    memory: weakref.WeakKeyDictionary[nn.Module, dict[Any, _Found]],
    request: ProbeRequest,
    compute: Callable[[], _Found],
    limit: int = CACHED,
) -> _Found:
    """Return the result that is in memory for a request, or compute it; the last few are kept."""
    known = memory.setdefault(request.root, {})
    if request.key not in known:
        check_runnable(request.model)
        known[request.key] = compute()
        for old in list(known)[:-limit]:
            del known[old]
    return known[request.key]


def as_arguments(additional_forward_args: Any) -> tuple[Any, ...]:
    """Spread captum's `additional_forward_args`: None, one argument, or a tuple of them."""
    given = () if additional_forward_args is None else additional_forward_args
    return given if isinstance(given, tuple) else (given,)


def check_images(model: nn.Module, inputs: Any) -> None:
    """Raise unless inputs are a batch of images of the model's type and device.

    Raises:
        TypeError: not a tensor, or not of the floating-point type of the model's weights.
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
    """Return (channels, height, width), type and device of the images."""
    if isinstance(inputs_or_size, Tensor):
        channels, height, width = inputs_or_size.shape[1:]
        return (channels, height, width), inputs_or_size.dtype, inputs_or_size.device
    size = check_pair("inputs_or_size", inputs_or_size)
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    return (_channels(model), *size), weight.dtype, weight.device


def _channels(model: nn.Module) -> int:
    """Guess the channels of a model's images: those of a convolution that can only be the stem, or 3."""
    weighted = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    leaves = [module for module in weighted if next(module.children(), None) is None]
    convolutions = [module for module in leaves if isinstance(module, nn.Conv2d)]
    cuts = [module for module in convolutions if module.stride == module.kernel_size != (1, 1)]
    stems = [module for module in leaves[:1] if module in convolutions] + cuts
    return int(getattr(model, "in_chans", stems[0].in_channels if stems else 3))


def _kind(argument: Any) -> Any:
    """Return a key for an argument: its type, shape or, if it is simple, its value."""
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype
    return argument if type(argument) in _SIMPLE else type(argument)


def _signature(model: nn.Module) -> tuple[Any, ...]:
    """List the modules of a model, their hooks and plain settings, to notice a change of any."""
    parts: list[Any] = []
    stack = [model]
    # Runs once per explanation: written for speed.
    while stack:
        module = stack.pop()
        own = vars(module)
        parts += (id(module), id(own.get("forward")))
        # Without the mode: models are explained in evaluation mode.
        for value in [value for name, value in own.items() if name not in MODULE_ATTRIBUTES]:
            if type(value) in _SETTINGS:
                parts.append(value)
            elif type(value) in _HOLDERS:
                values = value.values() if type(value) is dict else value
                parts += [part for part in values if type(part) in _SETTINGS]
        for names in ("_modules", "_forward_hooks", "_forward_pre_hooks"):
            parts += own.get(names, ())
        # Scripted modules keep their parts elsewhere.
        children = own["_modules"].values() if "_modules" in own else module.children()
        stack += [child for child in children if child is not None]
    return tuple(parts)  # not its hash: those of -1 and -2 are the same
