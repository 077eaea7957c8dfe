"""AWD-ViT: a ViT whose patches attend only to their windows, with or without dropped patches (DIP).

Source: Ma et al., "Visualizing and Understanding Patch Interactions in Vision Transformer", arXiv 2203.05922,
Secs. 4.1 and 4.2, Tables 1 and 2. The model is timm's VisionTransformer, and the windows are passed to its blocks as
timm's attention mask.
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
from vit_interactions.functional.window_free import token_window
from vit_interactions.models.build import TEST_SHAPE, build_vit
from vit_interactions.models.vit_checkpoints import vit_checkpoints

Teacher = Callable[[Tensor], ResponsiveField]


class TokenMask(NamedTuple):
    """Masks that a block applies to a batch.

    Attributes:
        attended: (batch, 1, tokens, tokens) bool, True if the token of the row attends to that of the column.
        dropped: (batch, tokens, 1) bool, True for tokens that are set to 0 before every block.
    """

    attended: Tensor
    dropped: Tensor


def token_mask(field: ResponsiveField, prefix: int) -> TokenMask:
    """Extend fields to prefix tokens, which attend to, and are attended by, all tokens and are never dropped.

    A patch attends to its field: its window without the other dropped patches. A dropped patch attends to itself and
    the rest of its window, so no row is empty.

    Args:
        field: fields of a batch.
        prefix: number of tokens before the first patch.

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
    return TokenMask(token_window(field.mask, prefix), F.pad(field.dropped, (prefix, 0)).unsqueeze(-1))


class AdaptiveWindowBlock(Block):
    """timm's block with dropped tokens set to 0 and attention within windows."""

    grad_checkpointing = False

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: TokenMask | None = None, is_causal: bool = False
    ) -> Tensor:
        """Transform tokens (batch, tokens, width).

        Args:
            x: the tokens.
            attn_mask: masks of the batch, in the argument through which timm passes masks. None: a plain block.
            is_causal: ignored; part of timm's signature.
        """
        attended = None
        if attn_mask is not None:
            attended, x = attn_mask.attended, x.masked_fill(attn_mask.dropped, 0.0)
        # timm does not checkpoint blocks with a mask.
        run = partial(checkpoint, super().forward) if self.grad_checkpointing else super().forward
        tokens: Tensor = run(x, attended)
        return tokens


class AdaptiveWindowViT(VisionTransformer):
    """timm's VisionTransformer in which each patch attends only to its window, in every layer and head.

    The windows differ per image. Pass them to the call, `model(images, field)`, or set a teacher (a trained plain ViT)
    to use `model(images)` in training and evaluation. The parameters are exactly those of ViT, so any checkpoint of the
    same shape loads. With fields for α = 1 and β = 0, it equals ViT.

    Example:
        >>> import timm, torch
        >>> from vit_interactions.training.teacher import WindowTeacher
        >>> model = timm.create_model("test_awd_vit", num_classes=5)
        >>> model.set_teacher(WindowTeacher(timm.create_model("test_vit"), alpha=0.05, beta=0.20))
        >>> model(torch.rand(2, 3, 160, 160)).shape
        torch.Size([2, 5])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the model with timm's arguments.

        Raises:
            ValueError: `patch_drop_rate` > 0, because windows need all patches.
        """
        if kwargs.get("patch_drop_rate"):
            raise ValueError(
                f"`patch_drop_rate` must be 0 in a model with windows, got {kwargs['patch_drop_rate']!r}."
            )
        super().__init__(*args, block_fn=AdaptiveWindowBlock, **kwargs)  # type: ignore[misc]
        self.set_teacher(None)

    @property
    def teacher(self) -> Teacher | None:
        """The function that computes fields for images without them, or None."""
        return self._teacher[0]

    def set_teacher(self, teacher: Teacher | None) -> None:
        """Set the teacher that computes the fields of images without them.

        The teacher follows the model (`to`, `cuda`, `half`), but is not part of it: its weights are neither in the
        state dict nor among the parameters, and `train` does not affect it.

        Args:
            teacher: maps the model's input images (batch, channels, height, width) to fields, such as a
                `WindowTeacher`. None: remove the teacher.
        """
        # A tuple, so that torch does not register the teacher as a submodule.
        self._teacher = (teacher,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdaptiveWindowViT":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if isinstance(self.teacher, nn.Module):
            self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def field(self, images: Tensor) -> ResponsiveField:
        """Compute the fields of images with the teacher. The mean of their `operations` is E_O.

        To get the fields and the output without computing the fields twice, use `field = model.field(images)` and
        `model(images, field)`.

        Raises:
            RuntimeError: no teacher is set.
        """
        if self.teacher is None:
            raise RuntimeError(
                f"{type(self).__name__} needs the windows of its images, but has no teacher. Call "
                "`model(images, field)`, or set a trained teacher: "
                "`model.set_teacher(WindowTeacher(vit, alpha=0.10, beta=0.20))`."
            )
        return self.teacher(images)

    def forward(self, x: Tensor, field: ResponsiveField | None = None) -> Tensor:  # type: ignore[override]
        """Classify images (batch, channels, height, width).

        Args:
            x: the images.
            field: fields of the images, with the model's grid; None: computed by the teacher.

        Raises:
            RuntimeError: neither `field` nor a teacher.
            ValueError: `field` has another grid or another number of images.
        """
        # The teacher cannot be compiled. It runs first, so that the rest of a compiled model is one graph.
        field = self.field(x) if field is None else field
        return self.forward_head(self.forward_features(x, field))

    def forward_features(  # type: ignore[override]
        self, x: Tensor, field: ResponsiveField | None = None
    ) -> Tensor:
        """Compute the tokens after the last block (batch, tokens, width); for the arguments see `forward`."""
        mask: Any = self._token_mask(x, field)
        return super().forward_features(x, attn_mask=mask)

    def forward_intermediates(
        self, x: Tensor, *args: Any, field: ResponsiveField | None = None, **kwargs: Any
    ) -> Any:
        """Return the tokens after selected blocks, with timm's arguments and `field`, see `forward`.

        Raises:
            ValueError: `attn_mask` is given; it is computed from the field.
        """
        if kwargs.get("attn_mask") is not None:
            raise ValueError("`attn_mask` must be None, got a mask. Pass `field` instead.")
        return super().forward_intermediates(x, *args, **{**kwargs, "attn_mask": self._token_mask(x, field)})

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        super().set_grad_checkpointing(enable)
        for block in self.blocks:
            block.grad_checkpointing = enable  # type: ignore[assignment]

    def _token_mask(self, images: Tensor, field: ResponsiveField | None) -> TokenMask:
        field = self.field(images) if field is None else field
        check_field_grid(field, self.patch_embed.dynamic_feat_size(images.shape[-2:]))
        if field.mask.shape[0] != images.shape[0]:
            raise ValueError(
                f"`field` must have {images.shape[0]} images, like the batch, got {field.mask.shape[0]}."
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
    """AWD-ViT-B/16 at 224 x 224, as in the paper's Tables 1 and 2."""
    return _create("awd_vit_base_patch16_224", pretrained, {"patch_size": 16, **_BASE}, kwargs)


@register_model
def awd_vit_base_patch32_224(pretrained: bool = False, **kwargs: Any) -> AdaptiveWindowViT:
    """AWD-ViT-B/32 at 224 x 224."""
    return _create("awd_vit_base_patch32_224", pretrained, {"patch_size": 32, **_BASE}, kwargs)


@register_model
def test_awd_vit(pretrained: bool = False, **kwargs: Any) -> AdaptiveWindowViT:
    """AWD-ViT with 0.4 million parameters at 160 x 160, for tests."""
    return _create("test_awd_vit", pretrained, TEST_SHAPE, kwargs)
