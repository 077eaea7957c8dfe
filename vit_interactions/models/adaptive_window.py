"""AWD-ViT: a ViT whose patches attend to their windows only, without and with dropped patches (DIP).

Source: Ma et al., "Visualizing and Understanding Patch Interactions in Vision Transformer", arXiv 2203.05922,
Secs. 4.1 and 4.2, Tables 1 and 2. The model is timm's VisionTransformer; windows reach its blocks as the mask that
timm's attention takes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from timm.models._manipulate import checkpoint
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vit_interactions.functional.responsive_field import ResponsiveField, check_field_grid
from vit_interactions.models.build import build_vit
from vit_interactions.models.vit_checkpoints import vit_checkpoints

Teacher = Callable[[Tensor], ResponsiveField]


class TokenMask(NamedTuple):
    """What a block needs of a batch's fields.

    Attributes:
        attended: (batch, 1, tokens, tokens) bool: whether the token of the row attends to that of the column.
        dropped: (batch, tokens, 1) bool: whose token is multiplied by 0 before every block.
    """

    attended: Tensor
    dropped: Tensor


def token_mask(field: ResponsiveField, prefix: int) -> TokenMask:
    """Extend fields to the prefix tokens, which attend to all and are attended by all and are never dropped.

    A patch attends to its field: its window without the dropped patches of others. So a dropped patch attends to itself
    and to what is left of its window, and no row is empty.

    Args:
        field: of a batch.
        prefix: how many tokens come before the first patch.

    Example:
        >>> import torch
        >>> from vit_interactions.functional.responsive_field import field_from_windows
        >>> windows = torch.tensor([[[0, 0, 1, 0], [0, 0, 1, 0]]])  # two patches, both in both windows
        >>> mask = token_mask(field_from_windows(windows, torch.tensor([[False, True]]), (1, 2)), prefix=1)
        >>> mask.attended[0, 0].int()
        tensor([[1, 1, 1],
                [1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    attended = F.pad(field.mask, (prefix, 0, prefix, 0), value=True).unsqueeze(1)
    return TokenMask(attended, F.pad(field.dropped, (prefix, 0)).unsqueeze(-1))


class AdaptiveWindowBlock(Block):
    """timm's block, before which dropped tokens are 0, and in which tokens attend within their windows."""

    grad_checkpointing = False

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: TokenMask | None = None, is_causal: bool = False
    ) -> Tensor:
        """Transform tokens (batch, tokens, width).

        Args:
            x: the tokens.
            attn_mask: the batch's; in the place in which timm hands its masks through. None: a plain block.
            is_causal: only for timm's signature; patches have no order.
        """
        attended = None
        if attn_mask is not None:
            attended, x = attn_mask.attended, x.masked_fill(attn_mask.dropped, 0.0)
        # timm does not checkpoint blocks that take a mask.
        run = partial(checkpoint, super().forward) if self.grad_checkpointing else super().forward
        tokens: Tensor = run(x, attended)
        return tokens


class AdaptiveWindowViT(VisionTransformer):
    """timm's VisionTransformer in which, in every layer and head, each patch attends to its window only.

    The windows differ from image to image. They come with the call, `model(images, field)`, or from a teacher, a
    trained plain ViT, so that `model(images)` works at training and test time alike. Parameters are ViT's exactly: any
    checkpoint of the same shape loads. With fields of α = 1 and β = 0 it is ViT.

    Example:
        >>> import timm, torch
        >>> from vit_interactions.training.teacher import WindowTeacher
        >>> model = timm.create_model("test_awd_vit", num_classes=5)
        >>> model.set_teacher(WindowTeacher(timm.create_model("test_vit"), alpha=0.05, beta=0.20))
        >>> model(torch.rand(2, 3, 160, 160)).shape
        torch.Size([2, 5])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take timm's arguments.

        Raises:
            ValueError: a `patch_drop_rate` other than 0: patches left out at random have no windows.
        """
        if kwargs.get("patch_drop_rate"):
            raise ValueError(
                f"`patch_drop_rate` must be 0 in a model of windows, but got {kwargs['patch_drop_rate']!r}."
            )
        super().__init__(*args, block_fn=AdaptiveWindowBlock, **kwargs)  # type: ignore[misc]
        self.set_teacher(None)

    @property
    def teacher(self) -> Teacher | None:
        """What gives the fields of images that come without."""
        return self._teacher[0]

    def set_teacher(self, teacher: Teacher | None) -> None:
        """Let a teacher give the fields of images that come without.

        The teacher goes where the model goes (`to`, `cuda`, `half`), but is no part of it: its weights are neither in
        the state dict nor among the parameters, and it does not see `train`.

        Args:
            teacher: maps images (batch, channels, height, width), as this model gets them, to their fields; a
                `WindowTeacher`. None: take it away.
        """
        # In a tuple, where torch does not look for submodules.
        self._teacher = (teacher,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdaptiveWindowViT":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if isinstance(self.teacher, nn.Module):
            self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def field(self, images: Tensor) -> ResponsiveField:
        """Ask the teacher for the fields of images. The mean of their `operations` is E_O.

        To have fields and answer at one cost: `field = model.field(images); model(images, field)`.

        Raises:
            RuntimeError: there is no teacher.
        """
        if self.teacher is None:
            raise RuntimeError(
                f"{type(self).__name__} needs the windows of its images, but has no teacher: call it as "
                "`model(images, field)`, or give it one that is trained, "
                "`model.set_teacher(WindowTeacher(vit, alpha=0.10, beta=0.20))`."
            )
        return self.teacher(images)

    def forward(self, x: Tensor, field: ResponsiveField | None = None) -> Tensor:  # type: ignore[override]
        """Classify images (batch, channels, height, width).

        Args:
            x: the images.
            field: theirs, of the model's grid; None: the teacher's.

        Raises:
            RuntimeError: neither `field` nor a teacher.
            ValueError: a field of another grid or of another number of images.
        """
        # Asked first, so that a compiled model is one graph after the teacher, which cannot be compiled.
        field = self.field(x) if field is None else field
        return self.forward_head(self.forward_features(x, field))

    def forward_features(  # type: ignore[override]
        self, x: Tensor, field: ResponsiveField | None = None
    ) -> Tensor:
        """Compute the tokens after the last block (batch, tokens, width); arguments as of `forward`."""
        mask: Any = self._token_mask(x, field)
        return super().forward_features(x, attn_mask=mask)

    def forward_intermediates(
        self, x: Tensor, *args: Any, field: ResponsiveField | None = None, **kwargs: Any
    ) -> Any:
        """Return the tokens after chosen blocks: timm's arguments, and `field` as of `forward`.

        Raises:
            ValueError: an `attn_mask`, in whose place the field stands.
        """
        if kwargs.get("attn_mask") is not None:
            raise ValueError("`attn_mask` must be None: give `field`, from which the mask is made.")
        return super().forward_intermediates(x, *args, **{**kwargs, "attn_mask": self._token_mask(x, field)})

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping what it computed."""
        super().set_grad_checkpointing(enable)
        for block in self.blocks:
            block.grad_checkpointing = enable  # type: ignore[assignment]

    def _token_mask(self, images: Tensor, field: ResponsiveField | None) -> TokenMask:
        field = self.field(images) if field is None else field
        check_field_grid(field, self.patch_embed.dynamic_feat_size(images.shape[-2:]))
        if field.mask.shape[0] != images.shape[0]:
            raise ValueError(
                f"`field` must be of {images.shape[0]} images, like the batch, but got one of {field.mask.shape[0]}."
            )
        return token_mask(field, self.num_prefix_tokens)


default_cfgs = generate_default_cfgs(
    vit_checkpoints(
        (
            "awd_vit_tiny_patch16_224",
            "awd_vit_small_patch16_224",
            "awd_vit_base_patch16_224",
            "awd_vit_base_patch32_224",
            "test_awd_vit",
        ),
        own="awd_vit",
    )
)


def _create(variant: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]) -> AdaptiveWindowViT:
    return build_vit(AdaptiveWindowViT, variant, pretrained, shape, options)


_BASE: dict[str, Any] = {"embed_dim": 768, "depth": 12, "num_heads": 12}


@register_model
def awd_vit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> AdaptiveWindowViT:
    """AWD-ViT-Ti/16 at 224 x 224."""
    shape = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
    return _create("awd_vit_tiny_patch16_224", pretrained, shape, kwargs)


@register_model
def awd_vit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> AdaptiveWindowViT:
    """AWD-ViT-S/16 at 224 x 224."""
    shape = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    return _create("awd_vit_small_patch16_224", pretrained, shape, kwargs)


@register_model
def awd_vit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> AdaptiveWindowViT:
    """AWD-ViT-B/16 at 224 x 224, of the paper's Tables 1 and 2."""
    return _create("awd_vit_base_patch16_224", pretrained, {"patch_size": 16, **_BASE}, kwargs)


@register_model
def awd_vit_base_patch32_224(pretrained: bool = False, **kwargs: Any) -> AdaptiveWindowViT:
    """AWD-ViT-B/32 at 224 x 224."""
    return _create("awd_vit_base_patch32_224", pretrained, {"patch_size": 32, **_BASE}, kwargs)


@register_model
def test_awd_vit(pretrained: bool = False, **kwargs: Any) -> AdaptiveWindowViT:
    """An AWD-ViT of 0.4 million parameters at 160 x 160, for tests."""
    shape = {
        "patch_size": 16,
        "embed_dim": 64,
        "depth": 6,
        "num_heads": 2,
        "mlp_ratio": 3,
        "dynamic_img_size": True,
    }
    return _create("test_awd_vit", pretrained, shape, kwargs)
