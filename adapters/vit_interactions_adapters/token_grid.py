"""The features of any layer as the grid of channels that CAM methods expect, and a layer that is alive.

A CAM needs features (batch, channels, rows, cols) and the gradient of a score there. Behind the last attention of a
ViT that answers from its class token no patch token can change the answer any more: gradients there are exactly 0.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from vit_interactions import TokenLayout, UnsupportedModelError
from vit_interactions.attention.feature_grid import FeatureGrid, feature_grid
from vit_interactions.attention.observe import observe


def reshape_transform(layout: TokenLayout) -> Callable[[Tensor], Tensor]:
    """Make the `reshape_transform` that pytorch_grad_cam's classes ask for.

    Args:
        layout: what `vit_interactions.token_layout` says of the model for the size of the images.

    Returns:
        A function from (batch, tokens, channels), or the patches only, to (batch, channels, rows, cols).

    Example:
        >>> layout = TokenLayout(prefix=1, rows=2, cols=3, readout="token", extent=(32, 48))
        >>> reshape_transform(layout)(torch.zeros(5, 7, 192)).shape
        torch.Size([5, 192, 2, 3])
    """

    def as_grid(tokens: Tensor) -> Tensor:
        if tokens.ndim != 3 or tokens.shape[1] not in (layout.tokens, layout.patches):
            raise ValueError(
                f"tokens must have shape (batch, {layout.tokens} tokens or {layout.patches} patches, channels) for "
                f"{layout.rows} x {layout.cols} patches, but got {tuple(tokens.shape)}."
            )
        patches = tokens[:, patch_places(layout, tokens)].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], layout.rows, layout.cols)

    return as_grid


def patch_places(layout: TokenLayout, tokens: Tensor) -> Tensor:
    """Return where the patches are among tokens (batch, tokens, channels) in the model's order, row by row."""
    return layout.places(tokens.shape[1])[-layout.patches :].to(tokens.device)


def layout_and_place(
    model: nn.Module, inputs: Tensor, additional_forward_args: Any, layer: str | None
) -> tuple[TokenLayout, str | FeatureGrid]:
    """Find the place of a CAM: the last self-attention of a Vision Transformer, or else features over the image.

    Returns:
        Where the patches or features are, and the name of the attention or the features.

    Raises:
        UnsupportedModelError: neither.
    """
    names: list[str] = []
    before: list[int] = []  # how many layers had attended when the layer was done
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
            f"`{layer}` runs before the first attention of {type(model).__name__}, which has its patches in another "
            "order than rows of them, so where it has them cannot be told. Name a later `layer`, such as "
            f"{names[-1]!r}."
        )
    return layout, names[-1]


@contextlib.contextmanager
def features_at(model: nn.Module, features: FeatureGrid) -> Iterator[nn.Identity]:
    """Lead the features of a layer through a module whose output is (batch, channels, rows, cols); see `grid_at`."""
    grid = nn.Identity()

    def on_exit(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        # A copy, as the model may go on in place.
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
    """Lead the patch tokens of one layer through a module whose output is (batch, channels, rows, cols).

    The model computes what it computes without; hooks are gone after the block.

    Args:
        model: an unwrapped model.
        layout: of the images that the model will be given.
        layer: name of the module whose output is meant; None: the tokens that enter the last attention, in timm
            the output of the last block's first norm.
        attention: name of the last attention, or the features of a model without.

    Yields:
        The module to hook.

    Raises:
        ValueError: no such layer, or one whose output is not the tokens.
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
            f"`layer` must name a module of {type(model).__name__}, such as {attention!r}, but got {layer!r}."
        ) from None
    as_grid = reshape_transform(layout)

    def lead_through(tokens: Any) -> Any:
        if not _is_tokens(tokens, layout):
            came = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise UnsupportedModelError(
                f"`{name}` gives {came}, not the {layout.tokens} tokens (batch, tokens, channels). Name another "
                f"`layer`, such as {attention!r}, or leave it out."
            )
        patches = grid(as_grid(tokens)).flatten(2).transpose(1, 2)
        return tokens.index_copy(1, patch_places(layout, tokens), patches)

    def on_entry(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        entering = (*args, *kwargs.values())[0]
        led = lead_through(entering)
        # nn.MultiheadAttention is given the same tokens three times: as query, key and value.
        return (
            tuple(led if value is entering else value for value in args),
            {name: led if value is entering else value for name, value in kwargs.items()},
        )

    def on_exit(_: nn.Module, args: Any, output: Any) -> Any:
        return (lead_through(output[0]), *output[1:]) if isinstance(output, tuple) else lead_through(output)

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
    """Raise unless every image has a value other than 0: the gradient at the patches, or the map that follows.

    Raises:
        ValueError: a dead layer.
    """
    dead = values.flatten(1).eq(0).all(1)
    if dead.any():
        if isinstance(attention, FeatureGrid):
            raise ValueError(
                f"the score's gradient at the output of `{attention.name}` is exactly 0 everywhere of image "
                f"{int(dead.long().argmax())}. Name another `layer`."
            )
        place = f"the output of `{layer}`" if layer else f"the tokens that enter `{attention}`"
        raise ValueError(
            f"the score's gradient at {place} is exactly 0 at every patch of image {int(dead.long().argmax())}: the "
            "answer is not read from the patches behind the last attention of a model with a class token, or the "
            f"score does not depend on the image, or half precision lost it. Leave `layer` out for the tokens that "
            f"enter `{attention}`, or name an earlier layer."
        )
