"""The features of any layer as the grid of channels that CAM methods expect, with a check of their gradient.

A CAM needs features (batch, channels, rows, cols) and the gradient of a score there. In a ViT with a class token, patch
tokens after the last attention do not affect the output, so their gradient is exactly 0.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from vit_interactions import TokenLayout, UnsupportedModelError
from vit_interactions.attention.feature_grid import FeatureGrid, feature_grid
from vit_interactions.attention.observe import observe


def reshape_transform(layout: TokenLayout) -> Callable[[Tensor], Tensor]:
    """Create the `reshape_transform` that pytorch_grad_cam's classes need.

    Args:
        layout: `vit_interactions.token_layout` of the model and the image size.

    Returns:
        Function from (batch, tokens, channels), or only the patches, to (batch, channels, rows, cols).

    Example:
        >>> layout = TokenLayout(prefix=1, rows=2, cols=3, readout="token", extent=(32, 48))
        >>> import torch
        >>> reshape_transform(layout)(torch.zeros(5, 7, 192)).shape
        torch.Size([5, 192, 2, 3])
    """

    def as_grid(tokens: Tensor) -> Tensor:
        if tokens.ndim != 3 or tokens.shape[1] not in (layout.tokens, layout.patches):
            raise ValueError(
                f"tokens must have shape (batch, {layout.tokens} tokens or {layout.patches} patches, channels) for "
                f"{layout.rows} x {layout.cols} patches, got {tuple(tokens.shape)}."
            )
        patches = tokens[:, patch_places(layout, tokens)].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], layout.rows, layout.cols)

    return as_grid


def patch_places(layout: TokenLayout, tokens: Tensor) -> Tensor:
    """Return the indices of the patches, row by row, among the model's tokens (batch, tokens, channels)."""
    return layout.places(tokens.shape[1])[-layout.patches :].to(tokens.device)


def layout_and_place(
    model: nn.Module, inputs: Tensor, additional_forward_args: Any, layer: str | None
) -> tuple[TokenLayout, str | FeatureGrid]:
    """Find the place of a CAM: the last self-attention of a Vision Transformer, otherwise the last feature map.

    Returns:
        Layout of the patches or features, and the name of the attention, or the feature map.

    Raises:
        UnsupportedModelError: the model has neither.
    """
    names: list[str] = []
    before: list[int] = []  # number of attention layers that ran before the layer returned
    named = dict(model.named_modules()).get(layer or "", nn.Identity())
    handle = named.register_forward_hook(lambda *_: before.append(len(names)))
    try:
        layout = observe(model, inputs, additional_forward_args, lambda call, _: names.append(call.name)).layout
    except UnsupportedModelError:
        found = feature_grid(model, inputs, additional_forward_args, layer)
        return found.layout, found
    finally:
        handle.remove()
    patches = layout.places(layout.tokens)[layout.prefix :]
    if layer and before and not before[-1] and (patches.diff() < 0).any():
        raise UnsupportedModelError(
            f"`layer` must run after the first attention of {type(model).__name__}, which does not order its patches "
            f"row by row, got {layer!r}, where the order is unknown. Name a later layer, such as {names[-1]!r}."
        )
    return layout, names[-1]


@contextlib.contextmanager
def features_at(model: nn.Module, features: FeatureGrid) -> Iterator[nn.Identity]:
    """Route a layer's features through a module whose output is (batch, channels, rows, cols); see `grid_at`."""
    grid = nn.Identity()

    def on_exit(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        # A copy, because the model may modify its output in place.
        return features.write(grid(features.read(output).clone()).clone(), output)

    handle = model.get_submodule(features.name).register_forward_hook(on_exit)
    try:
        yield grid
    finally:
        handle.remove()


@contextlib.contextmanager
def grid_at(
    model: nn.Module, layout: TokenLayout, layer: str | None, attention: str | FeatureGrid
) -> Iterator[nn.Identity]:
    """Route a layer's patch tokens through a module whose output is (batch, channels, rows, cols).

    The model's output does not change, and the hooks are removed after the block.

    Args:
        model: an unwrapped model.
        layout: layout of the model's input images.
        layer: name of a module, whose output is used. None: the input tokens of the last attention (in timm, the
            output of the last block's first norm).
        attention: name of the last attention, or the feature map of a model without attention.

    Yields:
        The module to hook.

    Raises:
        ValueError: no such layer.
        UnsupportedModelError: the output of the layer is not the tokens.
    """
    if isinstance(attention, FeatureGrid):
        with features_at(model, attention) as grid:
            yield grid
        return
    grid = nn.Identity()
    name = attention if layer is None else layer
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ValueError(
            f"`layer` must name a module of {type(model).__name__}, such as {attention!r}, got {layer!r}."
        ) from None
    as_grid = reshape_transform(layout)

    def route(tokens: Any) -> Any:
        if not _is_tokens(tokens, layout):
            received = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise UnsupportedModelError(
                f"`layer` must return the {layout.tokens} tokens (batch, tokens, channels), got {received} from "
                f"`{name}`. Name another layer, such as {attention!r}, or omit `layer`."
            )
        patches = grid(as_grid(tokens)).flatten(2).transpose(1, 2)
        return tokens.index_copy(1, patch_places(layout, tokens), patches)

    def on_entry(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        entering = (*args, *kwargs.values())[0]
        routed = route(entering)
        # nn.MultiheadAttention gets the same tokens three times: as query, key and value.
        return (
            tuple(routed if value is entering else value for value in args),
            {name: routed if value is entering else value for name, value in kwargs.items()},
        )

    def on_exit(_: nn.Module, args: Any, output: Any) -> Any:
        return (route(output[0]), *output[1:]) if isinstance(output, tuple) else route(output)

    if layer is None:
        handle = module.register_forward_pre_hook(on_entry, with_kwargs=True)
    else:
        handle = module.register_forward_hook(on_exit)
    try:
        yield grid
    finally:
        handle.remove()


def _is_tokens(value: Any, layout: TokenLayout) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] in (layout.tokens, layout.patches)


def check_alive(values: Tensor, layer: str | None, attention: str | FeatureGrid) -> None:
    """Raise an error if the gradient at the patches, or the resulting map, is 0 everywhere for any image.

    Raises:
        ValueError: a layer without gradient.
    """
    dead = values.flatten(1).eq(0).all(1)
    if dead.any():
        if isinstance(attention, FeatureGrid):
            raise ValueError(
                f"the score's gradient at the output of `{attention.name}` is exactly 0 everywhere in image "
                f"{int(dead.long().argmax())}. Name another `layer`."
            )
        place = f"the output of `{layer}`" if layer else f"the tokens that enter `{attention}`"
        raise ValueError(
            f"the score's gradient at {place} is exactly 0 at every patch of image {int(dead.long().argmax())}. Either "
            "the layer comes after the last attention of a model with a class token, or the score does not depend on "
            "the image, or half precision lost the gradient. Omit `layer` to use the input tokens of "
            f"`{attention}`, or name an earlier layer."
        )
