"""Observe what a model does with an image: its patches, its attention calls, and what its output is read from.

Nothing is taken from the model's attributes: the graph of one forward pass of a random image shows all of it
(docs/design.md, "See where the image goes").
"""

import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.declared import stated_layout
from vit_interactions.attention.errors import UnobservableModelError, UnprobedModelWarning, UnsupportedModelError
from vit_interactions.attention.examine import Probe
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.probing.probe_pass import probe_pass
from vit_interactions.attention.probing.request import ProbeRequest, cached, probe_request
from vit_interactions.utilities.checks import check_pair

WITHOUT_ATTENTION = (
    "Methods that need no attention remain: attn_lrp, captum's (saliency, integrated_gradients, occlusion, ...) and "
    "pytorch-grad-cam's (gradcam, layercam, ...)."
)
WITHOUT_GRADIENTS = "Methods that need neither attention nor a gradient remain, such as captum's occlusion."
Found = Probe | UnsupportedModelError
_probes: weakref.WeakKeyDictionary[nn.Module, dict[Any, Found]] = weakref.WeakKeyDictionary()


def probe(
    model: nn.Module, inputs_or_size: Tensor | tuple[int, int], additional_forward_args: Any = None
) -> Probe:
    """Observe what a model does with an image, once per image size and structure of arguments.

    Runs a random image through the model in evaluation mode and reads the graph of the pass. The result is cached until
    the model's modules or settings change.

    Args:
        model: any model; wrappers such as torch.compile's are removed.
        inputs_or_size: images (batch, channels, height, width), or their (height, width).
        additional_forward_args: further positional arguments of the model; a tuple is spread.

    Raises:
        UnsupportedModelError: a model whose attention is not from every patch to every patch of one image.
        ValueError: images that the model does not take; a stated layout that contradicts what is observed.
        TypeError: neither images nor a size.

    Warns:
        UnprobedModelWarning: no gradient reaches the image (int8, a backbone without gradients), so the layout is the
            stated or declared one.

    Example:
        >>> import timm
        >>> probe(timm.create_model("vit_tiny_patch16_224"), (224, 224)).layout.grid
        (14, 14)
    """
    request = probe_request(model, inputs_or_size, additional_forward_args)
    return found_or_raise(
        request, cached(_probes, request, lambda: attempt(lambda: _compared(request, additional_forward_args)))
    )


def attempt(run: Callable[[], Probe]) -> Found:
    """Return the probe or its error, to cache either."""
    try:
        return run()
    except UnsupportedModelError as error:
        return error


def found_or_raise(request: ProbeRequest, found: Found) -> Probe:
    """Return a probe, with a warning if its layout is assumed; raise an error with the methods that remain."""
    if isinstance(found, UnsupportedModelError):
        remain = WITHOUT_GRADIENTS if isinstance(found, UnobservableModelError) else WITHOUT_ATTENTION
        raise type(found)(f"{found} {remain}")
    if found.unobserved:
        warnings.warn(
            f"{type(request.root).__name__} cannot be observed: {found.unobserved} Its patches are taken to be as "
            f"{'stated' if stated_layout(request.root) else 'declared'}: {found.layout}.",
            UnprobedModelWarning,
            stacklevel=3,
        )
    return found


def token_layout(model: nn.Module, image_size: tuple[int, int]) -> TokenLayout:
    """Find where the patches of an image are in a model's token sequence, by `probe`.

    Args:
        model: any ViT; alone, wrapped, or inside a larger module.
        image_size: (height, width) of the input in pixels.

    Raises:
        UnsupportedModelError: the model has no patches, or they cannot be placed.
        ValueError: not a pair of positive ints, or the model does not take images of this size.
        TypeError: a tensor.

    Example:
        >>> import timm
        >>> token_layout(timm.create_model("vit_tiny_patch16_224"), (224, 224)).grid
        (14, 14)
    """
    if isinstance(image_size, Tensor):
        raise TypeError(
            f"`image_size` must be (height, width), got a tensor of shape {tuple(image_size.shape)}. Give "
            "`tuple(images.shape[-2:])`, or call `vi.probe(model, images).layout`."
        )
    return probe(model, check_pair("image_size", image_size)).layout


def _compared(request: ProbeRequest, additional_forward_args: Any) -> Probe:
    """Probe; raise ValueError if the user stated a layout that contradicts what was observed."""
    found = probe_pass(request, additional_forward_args)
    stated = stated_layout(request.root)
    if stated is None or found.unobserved:
        return found
    order = None if stated.order is None else found.layout.order
    if stated != replace(found.layout, order=order, shares=stated.shares):
        raise ValueError(
            f"`layout`, stated for {type(request.root).__name__}, must be what the model does with an image of "
            f"{found.image_size[0]} x {found.image_size[1]} pixels: {found.layout}; got {stated}."
        )
    return found
