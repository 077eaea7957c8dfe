"""Run a borrowed model forward and hand on its attention, or refuse: never a wrong map."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.derivatives import gradients_at
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.layout import TokenLayout, find_patch_embedding, token_layout
from vit_interactions.attention.record import AttentionCall, AttentionRecord, record_unnoticed


def observe(
    model: nn.Module,
    inputs: Tensor,
    additional_forward_args: Any,
    on_layer: Callable[[AttentionCall, TokenLayout], None],
) -> tuple[Tensor, TokenLayout, AttentionRecord]:
    """Run the model once without a graph, handing each layer's attention on as it happens.

    Args:
        model: an unwrapped model.
        inputs: (batch, channels, height, width).
        additional_forward_args: further positional arguments of the model; a tuple is spread.
        on_layer: called with every self-attention call, which is not kept.

    Returns:
        The model's output, the layout of its tokens, and the record with the calls of a pooling head.

    Raises:
        UnsupportedModelError: attention that is not from every patch to every patch of one image.
        ValueError: inputs of a wrong shape; attention that is not finite.
    """
    with torch.no_grad(), guarded(model, inputs, on_layer) as guard:
        output = guard.model(inputs, *as_arguments(additional_forward_args))
    return output, guard.finish(), guard.record


@contextlib.contextmanager
def guarded(
    model: nn.Module, inputs: Tensor, on_layer: Callable[[AttentionCall, TokenLayout], None]
) -> Iterator["LayerGuard"]:
    """Record a borrowed model, letting through only attention that can be explained; `finish` says if all was.

    Yields:
        The guard; `guard.model` is the module to run.
    """
    check_inputs(model, inputs)
    own = evaluated(model)
    guard = LayerGuard(own, inputs, on_layer)
    with record_unnoticed(own, guard) as guard.record:
        yield guard


def observe_gradients(
    model: nn.Module,
    inputs: Tensor,
    additional_forward_args: Any,
    score: Callable[[Tensor], Tensor],
    missing: Callable[[str, int], None] = lambda name, layer: None,
) -> tuple[Tensor, TokenLayout, AttentionRecord, tuple[Tensor, ...]]:
    """Run the model forward and backward once; no `.grad` of a parameter or of the input is touched.

    Args:
        model: an unwrapped model; its parameters may be frozen.
        inputs: (batch, channels, height, width).
        additional_forward_args: further positional arguments of the model; a tuple is spread.
        score: picks (batch,) from the model's output; summed, then differentiated.
        missing: called with name and index of each layer at which no gradient arrives, which counts as zero.

    Returns:
        The model's output, the layout of its tokens, the record with all calls, outside any graph, and the
        gradient of the score at each call's output z.

    Raises:
        UnsupportedModelError: attention that is not from every patch to every patch of one image.
        ValueError: inputs of a wrong shape; attention that is not finite.
    """
    calls: list[AttentionCall] = []
    # Neither the caller's `no_grad` nor `inference_mode` may keep the graph from being built.
    with torch.inference_mode(False), torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        with guarded(model, inputs, lambda call, layout: calls.append(call)) as guard:
            output = guard.model(leaf, *as_arguments(additional_forward_args))
        layout = guard.finish()
        outputs = [call.output for call in calls]
        gradients = gradients_at(
            model, score(output).sum(), outputs, lambda layer: missing(calls[layer].name, layer)
        )
    guard.record.calls.extend(call.detached() for call in calls)
    return output, layout, guard.record, gradients


class LayerGuard:
    """Lets through only what is attention among all patches of one image, and remembers if it was finite."""

    def __init__(
        self, model: nn.Module, inputs: Tensor, on_layer: Callable[[AttentionCall, TokenLayout], None]
    ) -> None:
        """Expect the layout that the model and the size of its inputs tell."""
        self.model = model
        self.record = AttentionRecord(model)
        self.batch, self.size = inputs.shape[0], (inputs.shape[-2], inputs.shape[-1])
        self.on_layer = on_layer
        self.places: dict[str, int] = {}
        self.finite: list[Tensor] = []
        # What a layer does tells more than a missing attribute, so a model without layout runs first.
        self.layout: TokenLayout | UnsupportedModelError
        try:
            self.layout = token_layout(model, self.size)
        except UnsupportedModelError as error:
            self.layout = error

    def __call__(self, call: AttentionCall) -> None:
        """Hand a layer's call on, or refuse it by name."""
        shape = tuple(call.query.shape)
        if len(shape) != 4 or shape[0] != self.batch:
            raise UnsupportedModelError(
                f"`{call.name}` attends within windows or groups, not over the whole image: its query has "
                f"shape {shape}, where ({self.batch}, heads, tokens, width) was expected. Use a ViT with global "
                "attention."
            )
        if isinstance(self.layout, UnsupportedModelError):
            raise self.layout
        if self.record.pool_calls:
            raise UnsupportedModelError(
                f"`{self.record.pool_calls[0].name}`, a layer in the middle, attends from other tokens than it attends "
                f"to (queries {tuple(self.record.pool_calls[0].query.shape)}, keys "
                f"{tuple(self.record.pool_calls[0].key.shape)}), so the layers do not agree in tokens. Use a ViT with "
                "global attention."
            )
        if shape[2] != self.layout.tokens:
            raise UnsupportedModelError(
                f"`{call.name}` attends among {shape[2]} items, but the image has {self.layout.tokens} tokens "
                f"({self.layout.prefix} prefix + {self.layout.rows} x {self.layout.cols} patches): channel, "
                "pooled or windowed attention says nothing about pairs of patches. Use a ViT with global "
                "attention."
            )
        if self.places.setdefault(call.name, call.place) != call.place:
            raise UnsupportedModelError(
                f"`{call.name}` combines several attention maps into one (differential attention), so none of "
                "them is the attention of the layer. Use a ViT with one softmax a layer."
            )
        self.finite.append(call.output.isfinite().all())
        self.on_layer(call, self.layout)

    def finish(self) -> TokenLayout:
        """Return the layout after the last layer, once it is sure that all attention was seen, in its place."""
        self.record.check_complete()
        if isinstance(self.layout, UnsupportedModelError):
            raise self.layout
        check_siblings(self.model, self.places)
        if self.record.embedding_runs > 1:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} runs its ViT {self.record.embedding_runs} times for one input, so its "
                "layers belong to several images. Explain the ViT itself, once for each of them."
            )
        if self.record.image_size not in (None, self.size):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} was given images of {self.size}, but its patches are cut from images "
                f"of {self.record.image_size}, so they cannot be placed. Explain the ViT itself, on what it sees."
            )
        # One synchronisation with the device for all layers.
        finite = torch.stack(self.finite).tolist()
        if not all(finite):
            layer = finite.index(False)
            raise ValueError(
                f"the attention of layer {layer} (`{list(self.places)[layer]}`) is not finite: `inputs` or the "
                "model's weights hold NaN or infinite values, or half precision overflowed."
            )
        return self.layout


def check_siblings(model: nn.Module, callers: Iterable[str]) -> None:
    """Raise UnsupportedModelError if a block of a list made no call though its neighbours of the same class did.

    Its attention was computed in a way that is not seen, and taking the others for the whole would be wrong.
    """
    modules = dict(model.named_modules())
    called = {
        ".".join(parts[:end]) for parts in (name.split(".") for name in callers) for end in range(len(parts) + 1)
    }
    for name in called:
        parent, _, index = name.rpartition(".")
        if not index.isdecimal():
            continue
        for sibling, module in modules[parent].named_children():
            path = f"{parent}.{sibling}" if parent else sibling
            if type(module) is type(modules[name]) and path not in called:
                raise UnsupportedModelError(
                    f"`{path}` made no call of scaled_dot_product_attention among all tokens, but `{name}`, of the "
                    "same class, did: it attends in another way, which cannot be read. Use the model's "
                    "scaled_dot_product_attention implementation for all blocks."
                )


def check_inputs(model: nn.Module, inputs: Tensor) -> None:
    """Raise unless the inputs are a batch of images of the model's channels, type and device.

    Raises:
        TypeError: no tensor, or not the floating-point type of the model's weights.
        ValueError: not four axes, an empty batch, or another number of channels.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"`inputs` must be a tensor, but got {type(inputs).__name__}.")
    if inputs.ndim != 4 or 0 in inputs.shape:
        raise ValueError(
            f"`inputs` must have shape (batch, channels, height, width), but got {tuple(inputs.shape)}."
        )
    embedding = find_patch_embedding(model)
    weight = next(model.parameters(), None)
    # A module around the ViT may take in whatever it makes images of.
    if weight is None or (embedding is not None and not hasattr(model, "num_prefix_tokens")):
        return
    entry = _first_convolution(embedding or model)
    channels = entry.in_channels if entry else getattr(model, "in_chans", inputs.shape[1])
    if inputs.shape[1] != channels:
        raise ValueError(
            f"`inputs` must have {channels} channels for this model, but got {inputs.shape[1]} "
            f"(shape {tuple(inputs.shape)})."
        )
    if inputs.device != weight.device:
        raise ValueError(f"`inputs` must be on the model's device {weight.device}, but got {inputs.device}.")
    if inputs.dtype != weight.dtype and not torch.is_autocast_enabled(inputs.device.type):
        raise TypeError(f"`inputs` must be {weight.dtype} like the model, but got {inputs.dtype}.")


def _first_convolution(model: nn.Module) -> nn.Conv2d | None:
    """Return the convolution that takes the image in, which models that embed patches linearly do not have."""
    return next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)


def as_arguments(additional_forward_args: Any) -> tuple[Any, ...]:
    """Spread captum's `additional_forward_args`: None, one argument, or a tuple of them."""
    if additional_forward_args is None:
        return ()
    if isinstance(additional_forward_args, tuple):
        return additional_forward_args
    return (additional_forward_args,)
