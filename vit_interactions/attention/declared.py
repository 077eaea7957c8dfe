"""The layout that a model declares by timm's attributes, for models that cannot be observed (no graph).

A declaration may be false, so its use comes with a warning.
"""

import math
import weakref
from typing import Any

from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import Readout, TokenLayout
from vit_interactions.attention.unwrap import unwrap

_stated: weakref.WeakKeyDictionary[nn.Module, TokenLayout] = weakref.WeakKeyDictionary()
POOLS: tuple[Readout, ...] = ("token", "avg", "map")


def state_layout(model: nn.Module, layout: TokenLayout) -> None:
    """State the layout of a model's tokens, if it can neither be observed nor is declared by timm's attributes.

    Explaining the model raises an error if the statement contradicts what can be observed.

    Args:
        model: the model that explainers will get.
        layout: its layout for images of the size that it will get.

    Raises:
        TypeError: `layout` is not a `TokenLayout`.

    Example:
        >>> model = nn.Identity()
        >>> state_layout(model, TokenLayout(prefix=1, rows=2, cols=2, readout="token", extent=(32, 32)))
        >>> stated_layout(model).grid
        (2, 2)
    """
    if not isinstance(layout, TokenLayout):
        raise TypeError(f"`layout` must be a TokenLayout, got {type(layout).__name__}.")
    _stated[unwrap(model)] = layout


def stated_layout(model: nn.Module) -> TokenLayout | None:
    """Return the layout that was stated for an unwrapped model, if any."""
    return _stated.get(model)


def declared_layout(model: nn.Module, image_size: tuple[int, int]) -> TokenLayout:
    """Read `num_prefix_tokens`, `patch_embed` and `global_pool` of the one ViT in a model.

    Args:
        model: a ViT that has timm's attributes, alone or inside a larger module.
        image_size: (height, width) of the input in pixels.

    Raises:
        UnsupportedModelError: the model does not declare its patches.
        ValueError: an image smaller than one patch.

    Example:
        >>> import timm
        >>> declared_layout(timm.create_model("vit_tiny_patch16_224"), (224, 224)).grid
        (14, 14)
    """
    height, width = image_size
    vit = _find_vit(model)
    embed: Any = vit.patch_embed if hasattr(vit, "patch_embed") else vit.embeds
    patch_height, patch_width = _patch_size(vit, embed)
    pads = bool(getattr(embed, "dynamic_img_pad", False))
    steps = math.ceil if pads else math.floor
    rows, cols = steps(height / patch_height), steps(width / patch_width)
    if rows * cols == 0:
        raise ValueError(
            f"`image_size` must be at least one patch of {patch_height} x {patch_width} pixels, "
            f"got {height} x {width}."
        )
    return TokenLayout(
        prefix=int(vit.num_prefix_tokens),
        rows=rows,
        cols=cols,
        readout=_readout(vit),
        extent=(rows * patch_height, cols * patch_width),
        pool_prefix=bool(getattr(vit, "pool_include_prefix", False)),
    )


def _find_vit(model: nn.Module) -> Any:
    """Return the module with the attributes of a ViT: the model itself or the only one inside it."""
    counted = [part for part in model.modules() if isinstance(getattr(part, "num_prefix_tokens", None), int)]
    found = [part for part in counted if hasattr(part, "patch_embed") or hasattr(part, "embeds")]
    if found and (found[0] is model or len(found) == 1):
        return found[0]
    if found:
        raise UnsupportedModelError(f"{type(model).__name__} contains {len(found)} ViTs; explain one of them.")
    raise UnsupportedModelError(
        f"{type(model).__name__} does not declare its patches either (timm's `num_prefix_tokens` and `patch_embed`). "
        "For methods that need no gradient, such as attention_rollout, state them with `vi.state_layout(model, "
        "layout)`."
    )


def _patch_size(vit: Any, embed: Any) -> tuple[int, int]:
    """Return (height, width) in pixels of one token's patch, including the stride of a convolutional stem."""
    has_ratio = hasattr(embed, "feat_ratio")
    ratio = embed.feat_ratio(as_scalar=False) if has_ratio else getattr(embed, "patch_size", None)
    if ratio is None:
        raise UnsupportedModelError(
            f"{type(vit).__name__} has a patch embedding without `patch_size`, so its patches cannot be placed "
            "in the image; state them with `vi.state_layout(model, layout)`."
        )
    height, width = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    return int(height), int(width)


def _readout(vit: Any) -> Readout:
    if getattr(vit, "head_dist", None) is not None:
        return "distilled"
    # Without pooling the output is all tokens; users read the class token, if any.
    owners = (vit, getattr(vit, "embeds", None))
    has_class_token = any(getattr(owner, "cls_token", None) is not None for owner in owners)
    pool: Any = getattr(vit, "global_pool", None) or ("token" if has_class_token else "avg")
    known = pool in POOLS and (vit.num_prefix_tokens or pool != "token")
    return pool if known else "other"
