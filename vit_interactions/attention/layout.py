"""Where the patches are in a model's token sequence, and what the model reads its answer from.

timm's models say all of it themselves: `num_prefix_tokens`, `patch_embed`, `global_pool`. A model of your own
that has the same three attributes is read likewise. The models of other packages are read by the adapters.
"""

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.adapters import LAYOUTS
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.functional.checks import check_pair

Readout = Literal["token", "distilled", "avg", "map", "token_avg"]
POOLS: tuple[Readout, ...] = ("token", "avg", "map")


@dataclass(frozen=True)
class TokenLayout:
    """The order of a model's tokens for one image size: prefix tokens, then the patches row by row.

    Attributes:
        prefix: class, distillation and register tokens before the first patch.
        rows: rows of patches, row 0 at the top.
        cols: columns of patches, column 0 at the left.
        readout: what the model's output is computed from: the class token ("token"), class and distillation
            token ("distilled"), the mean of tokens ("avg"), an attention-pooling head ("map"), or the class
            token beside the mean of the patches ("token_avg").
        extent: (height, width) in pixels of the input that the grid covers; more than the image where the
            model pads it, less where the model leaves a rest at the right or bottom unseen.
        pool_prefix: whether prefix tokens take part beside the patches. Of a pooling head, its attention tells.
    """

    prefix: int
    rows: int
    cols: int
    readout: Readout
    extent: tuple[int, int]
    pool_prefix: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    @property
    def patches(self) -> int:
        """The number of patches."""
        return self.rows * self.cols

    @property
    def tokens(self) -> int:
        """The number of tokens, prefix included."""
        return self.prefix + self.patches

    def readout_weights(self, pool_attention: Tensor | None = None) -> Tensor:
        """Give each output token's share in what the model reads its answer from.

        Where the class token and the mean of the patches are read side by side, a classifier weighs each class's
        features of both as it likes; they count half each here.

        Args:
            pool_attention: (batch, heads, latents, keys), the pooling head's attention; for "map" only. The keys
                are all tokens, or the patches only.

        Returns:
            (1 or batch, tokens) float32, ≥ 0, each row summing to 1.

        Raises:
            ValueError: a "map" readout without `pool_attention`, or with one of another length.

        Example:
            >>> TokenLayout(prefix=2, rows=1, cols=2, readout="distilled", extent=(16, 32)).readout_weights()
            tensor([[0.5000, 0.5000, 0.0000, 0.0000]])
        """
        if self.readout == "map":
            return self._pool_weights(pool_attention)
        weights = torch.zeros(1, self.tokens, device="cpu")
        if self.readout == "avg":
            weights[:, 0 if self.pool_prefix else self.prefix :] = 1.0
        elif self.readout == "token_avg":
            weights[:, 0], weights[:, self.prefix :] = 1.0, 1.0 / self.patches
        else:
            weights[:, : 2 if self.readout == "distilled" else 1] = 1.0
        return weights / weights.sum()

    def _pool_weights(self, pool_attention: Tensor | None) -> Tensor:
        if pool_attention is None or pool_attention.shape[-1] not in (self.tokens, self.patches):
            came = "none" if pool_attention is None else f"shape {tuple(pool_attention.shape)}"
            raise ValueError(
                "a model with an attention-pooling head needs its `pool_attention` (batch, heads, latents, keys) "
                f"over {self.tokens} tokens or {self.patches} patches, but got {came}."
            )
        return nn.functional.pad(pool_attention.mean((1, 2)), (self.tokens - pool_attention.shape[-1], 0))


def token_layout(model: nn.Module, image_size: tuple[int, int]) -> TokenLayout:
    """Find where the patches of an image are in a model's token sequence.

    Args:
        model: a ViT that follows timm's attributes, or one of transformers or torchvision; alone, wrapped, or as
            the one ViT inside a larger module.
        image_size: (height, width) of the input in pixels.

    Raises:
        UnsupportedModelError: the model does not say where its patches are, or has none.
        ValueError: no pair of positive ints, or the model does not take images of this size.

    Example:
        >>> import timm
        >>> token_layout(timm.create_model("vit_tiny_patch16_224"), (224, 224)).grid
        (14, 14)
    """
    height, width = check_pair("image_size", image_size)
    model = unwrap(model)
    adapter = _adapter(model)
    if adapter is not None:
        layout: TokenLayout = adapter.token_layout(model, (height, width))
        return layout
    vit = _find_vit(model)
    embed: Any = vit.patch_embed if hasattr(vit, "patch_embed") else vit.embeds
    patch_height, patch_width = _patch_size(vit, embed)
    _check_size(vit, embed, (height, width), (patch_height, patch_width))
    pads = bool(getattr(embed, "dynamic_img_pad", False))
    steps = math.ceil if pads else math.floor
    rows, cols = steps(height / patch_height), steps(width / patch_width)
    if rows * cols == 0:
        raise ValueError(
            f"`image_size` must be at least one patch of {patch_height} x {patch_width} pixels, "
            f"but got {height} x {width}."
        )
    return TokenLayout(
        prefix=int(vit.num_prefix_tokens),
        rows=rows,
        cols=cols,
        readout=_readout(vit),
        extent=(rows * patch_height, cols * patch_width),
        pool_prefix=bool(getattr(vit, "pool_include_prefix", False)),
    )


def find_patch_embedding(model: nn.Module) -> nn.Module | None:
    """Return the module that cuts the image into patches, None where the model does not tell."""
    try:
        vit = _find_vit(unwrap(model))
    except UnsupportedModelError:
        return None
    embedding: nn.Module = vit.patch_embed if hasattr(vit, "patch_embed") else vit.embeds
    return embedding


def _adapter(model: nn.Module) -> Any:
    """Load the adapter of the package that a model comes from, unless the model speaks timm's words."""
    if any(_is_vit(module) for module in model.modules()):
        return None
    packages = (kind.__module__.split(".")[0] for module in model.modules() for kind in type(module).__mro__)
    name = next((LAYOUTS[package] for package in packages if package in LAYOUTS), None)
    return name and importlib.import_module(name)


def _find_vit(model: nn.Module) -> Any:
    """Return the module with the attributes of a ViT: the model itself or the only one inside it."""
    found = [module for module in model.modules() if _is_vit(module)]
    if found and (found[0] is model or len(found) == 1):
        return found[0]
    reason = (
        f"contains {len(found)} ViTs; explain one of them"
        if found
        else "has no `num_prefix_tokens` and `patch_embed`, from which its patches could be told; give a "
        "Vision Transformer, or set these attributes as timm's do"
    )
    raise UnsupportedModelError(f"{type(model).__name__} {reason}.")


def _is_vit(module: nn.Module) -> bool:
    has_embedding = hasattr(module, "patch_embed") or hasattr(module, "embeds")
    return has_embedding and isinstance(getattr(module, "num_prefix_tokens", None), int)


def _patch_size(vit: Any, embed: Any) -> tuple[int, int]:
    """(height, width) in pixels of one token's patch, a convolutional stem's stride included."""
    ratio = (
        embed.feat_ratio(as_scalar=False) if hasattr(embed, "feat_ratio") else getattr(embed, "patch_size", None)
    )
    if ratio is None:
        raise UnsupportedModelError(
            f"{type(vit).__name__} has a patch embedding without `patch_size`, so its patches cannot be placed "
            "in the image; give a Vision Transformer, or set the attribute as timm's do."
        )
    height, width = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    return int(height), int(width)


def _check_size(vit: Any, embed: Any, size: tuple[int, int], patch: tuple[int, int]) -> None:
    built_for = getattr(embed, "img_size", None)
    # A convolution leaves a rest at the border unseen; a linear embedding cannot.
    if size == tuple(built_for) if built_for else not getattr(embed, "is_linear", False):
        return
    if built_for and getattr(embed, "strict_img_size", False):
        raise ValueError(
            f"{type(vit).__name__} takes images of {built_for[0]} x {built_for[1]} pixels, but got "
            f"{size[0]} x {size[1]}. Resize the image, or build the model with `dynamic_img_size=True` or "
            f"`img_size={size}`."
        )
    if not getattr(embed, "dynamic_img_pad", False) and (size[0] % patch[0] or size[1] % patch[1]):
        raise ValueError(
            f"{type(vit).__name__} takes images whose sides are multiples of {patch[0]} x {patch[1]} pixels, "
            f"but got {size[0]} x {size[1]}. Resize the image, or build the model with "
            "`dynamic_img_pad=True`."
        )


def _readout(vit: Any) -> Readout:
    if getattr(vit, "head_dist", None) is not None:
        return "distilled"
    pool = getattr(vit, "global_pool", None)
    # Without pooling the output is all tokens; what is read from them is the class token where there is one.
    pool = pool or ("token" if _has_class_token(vit) else "avg")
    if pool == "token" and not vit.num_prefix_tokens:
        raise UnsupportedModelError(
            f'{type(vit).__name__} pools by "token" but has no prefix token, so what its answer is read from '
            'cannot be told. Build it with `global_pool="avg"`, or set this attribute as timm does.'
        )
    readout = next((known for known in POOLS if known == pool), None)
    if readout is not None:
        return readout
    raise UnsupportedModelError(
        f'{type(vit).__name__} pools its tokens by "{pool}", which is no fixed share of each token. Build it '
        'with `global_pool="token"`, "avg" or "map".'
    )


def _has_class_token(vit: Any) -> bool:
    owners = (vit, getattr(vit, "embeds", None))
    return any(getattr(owner, "cls_token", None) is not None for owner in owners)
