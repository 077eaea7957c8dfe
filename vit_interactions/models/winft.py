"""WinfT, the window-free transformer, as timm models.

Source: Ma et al., arXiv 2203.05922, Sec. 5. WinfT has exactly the parameters of timm's ViT of the same shape, so every
checkpoint of one loads into the other. The pretrained tags are those of the ViT, as a starting point for training.
"""

from typing import Any

from timm.layers.attention import Attention
from timm.models import (
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)
from timm.models.vision_transformer import VisionTransformer, _cfg
from torch import Tensor, nn

from vit_interactions.functional.window_free import (
    WINDOW_FILLS,
    token_window,
    window_free_attention,
    window_free_logits,
    window_free_mask,
    windowed_probabilities,
)
from vit_interactions.models.build import TEST_SHAPE, build_vit
from vit_interactions.models.vit_checkpoints import vit_checkpoints
from vit_interactions.utilities.checks import check_choice


@register_notrace_module
class WindowFreeAttention(Attention):
    """timm's `Attention` with windows computed from its queries and keys (Eqs. 8 and 9).

    Attributes:
        num_prefix_tokens: number of tokens before the first patch.
        window_fill: "zero" or "-inf", the score of pairs of patches outside the windows.
        recording: whether the next forward pass stores its windows; see `record_windows`.
        window_logits: (batch, patches, patches), with gradients, of the last recorded forward pass.
        window_mask: (batch, patches, patches) bool, of the last recorded forward pass.
    """

    window_logits: Tensor | None
    window_mask: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build timm's attention layer.

        Args:
            *args: arguments of timm's `Attention`.
            **kwargs: arguments of timm's `Attention`.

        Raises:
            ValueError: gated attention, which is not supported.
        """
        super().__init__(*args, **kwargs)
        if getattr(self, "gate", None) is not None:
            raise ValueError("`gated` must be False, got True. Window-free attention has no gate.")
        self.num_prefix_tokens = 1
        self.window_fill = "zero"
        self.recording = False
        self.window_logits = None
        self.window_mask = None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend among tokens (batch, tokens, dim), prefix tokens first.

        Raises:
            ValueError: an external mask, which would conflict with the windows.
        """
        if attn_mask is not None or is_causal:
            raise ValueError(
                "`attn_mask` and `is_causal` must be None and False. Window-free attention masks itself."
            )
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        prefix, fill = self.num_prefix_tokens, self.window_fill
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            output, logits, mask = window_free_attention(query, key, value, prefix, fill, self.scale, dropout)
        else:
            logits = window_free_logits(query[:, :, prefix:], key[:, :, prefix:])
            mask = window_free_mask(logits)
            attention = windowed_probabilities(query, key, token_window(mask, prefix), fill, self.scale)
            output = self.attn_drop(attention) @ value
        if self.recording:
            self.window_logits, self.window_mask = logits, mask
        x = self.norm(output.transpose(1, 2).flatten(2))
        projected: Tensor = self.proj_drop(self.proj(x))
        return projected


class WindowFreeTransformer(VisionTransformer):
    """timm's `VisionTransformer` with window-free attention in every block and the same parameters."""

    def __init__(self, *, window_fill: str = "zero", **kwargs: Any) -> None:
        """Build timm's ViT with window-free attention layers.

        Args:
            window_fill: score of pairs of patches outside the windows: "zero" (Eq. 9), or "-inf", which masks them.
            **kwargs: arguments of timm's `VisionTransformer`.

        Raises:
            ValueError: an unknown `window_fill`, or blocks that do not use `attn_layer`.
        """
        check_choice("window_fill", window_fill, WINDOW_FILLS)
        super().__init__(attn_layer=WindowFreeAttention, **kwargs)
        layers = [module for module in self.modules() if isinstance(module, WindowFreeAttention)]
        if len(layers) < len(self.blocks):
            raise ValueError(
                f"`block_fn` must build its attention with `attn_layer`, got {kwargs.get('block_fn')}, whose blocks "
                "would have no windows."
            )
        for layer in layers:
            layer.num_prefix_tokens = self.num_prefix_tokens
            layer.window_fill = window_fill


default_cfgs = generate_default_cfgs(
    {
        "test_winft": _cfg(input_size=(3, 160, 160), crop_pct=0.95),
        **vit_checkpoints(
            (
                "winft_tiny_patch16_224",
                "winft_tiny_patch16_384",
                "winft_small_patch16_224",
                "winft_small_patch16_384",
                "winft_base_patch16_224",
                "winft_base_patch16_384",
                "winft_base_patch32_224",
                "winft_base_patch32_384",
            ),
            own="winft",
        ),
    }
)


def _create(variant: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    return build_vit(WindowFreeTransformer, variant, pretrained, shape, options)


_TINY = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}


@register_model
def winft_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-Ti/16 at 224 x 224."""
    return _create("winft_tiny_patch16_224", pretrained, _TINY, kwargs)


@register_model
def winft_tiny_patch16_384(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-Ti/16 at 384 x 384."""
    return _create("winft_tiny_patch16_384", pretrained, _TINY, kwargs)


@register_model
def winft_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-S/16 at 224 x 224."""
    return _create("winft_small_patch16_224", pretrained, _SMALL, kwargs)


@register_model
def winft_small_patch16_384(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-S/16 at 384 x 384."""
    return _create("winft_small_patch16_384", pretrained, _SMALL, kwargs)


@register_model
def winft_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-B/16 at 224 x 224, as in the paper's Tables 3 and 4."""
    return _create("winft_base_patch16_224", pretrained, _BASE, kwargs)


@register_model
def winft_base_patch16_384(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-B/16 at 384 x 384, as in the paper's Table 3."""
    return _create("winft_base_patch16_384", pretrained, _BASE, kwargs)


@register_model
def winft_base_patch32_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-B/32 at 224 x 224, as in the paper's Table 3."""
    return _create("winft_base_patch32_224", pretrained, {**_BASE, "patch_size": 32}, kwargs)


@register_model
def winft_base_patch32_384(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT-B/32 at 384 x 384, as in the paper's Table 3."""
    return _create("winft_base_patch32_384", pretrained, {**_BASE, "patch_size": 32}, kwargs)


@register_model
def test_winft(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT with 0.4 million parameters at 160 x 160, for tests."""
    return _create("test_winft", pretrained, TEST_SHAPE, kwargs)
