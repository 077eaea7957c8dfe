"""Tiny models, one per ViT family, with random weights and sharp attention: the rows of the conformance tests.

Fresh timm weights attend almost uniformly, so that anything agrees with anything at 1e-6. `sharpen` redraws what
makes the scores, until attention differs between patches, heads, layers and images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

import vit_interactions  # noqa: F401 - registers its models with timm

CLASSES = 5
TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": CLASSES}

# Parameters that queries and keys are computed from, and those that let one block change the next one's input.
SCORES = ("qkv.weight", "in_proj.weight", "attn_pool.q.weight", "attn_pool.kv.weight")
SCORE_INPUTS = ("relative_position_bias_table", "rel_pos.mlp.fc2.weight", "attn_pool.latent")
LAYER_SCALES = ("gamma", "gamma_1", "gamma_2")
HEADS = ("head.weight", "head_dist.weight")


def sharpen(model: nn.Module, seed: int = 0) -> nn.Module:
    """Redraw the weights that decide the attention, so that it is far from uniform; return the model."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(parameter: Tensor, std: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(SCORES):
                redraw(parameter, 1.5 / parameter.shape[1] ** 0.5)
            elif name.endswith(SCORE_INPUTS):
                redraw(parameter, 1.0)
            elif name.endswith(LAYER_SCALES):
                parameter.fill_(1.0)
            elif name.endswith(HEADS):
                redraw(parameter, 0.5)
    return model


def tiny(name: str, **options: Any) -> nn.Module:
    """Build a tiny timm model in evaluation mode; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sharpen(timm.create_model(name, **{**TINY, **options})).eval()


@dataclass(frozen=True)
class Family:
    """A kind of ViT and what its token layout is known to be."""

    name: str
    build: Callable[..., nn.Module] = field(repr=False)
    size: tuple[int, int]
    prefix: int
    grid: tuple[int, int]
    readout: str
    extent: tuple[int, int] = (0, 0)
    pool_prefix: bool = False
    layers: int = 2
    heads: int = 2

    def __post_init__(self) -> None:
        """Let the patches cover the image, unless told otherwise."""
        if self.extent == (0, 0):
            object.__setattr__(self, "extent", self.size)

    @property
    def tokens(self) -> int:
        """The number of tokens, prefix included."""
        return self.prefix + self.grid[0] * self.grid[1]

    def images(self, batch: int = 2, seed: int = 1) -> Tensor:
        """Draw a batch of random images of the model's size."""
        return torch.randn(batch, 3, *self.size, generator=torch.Generator().manual_seed(seed))


def _family(
    name: str,
    model: str,
    size: tuple[int, int],
    prefix: int,
    grid: tuple[int, int],
    readout: str,
    options: dict[str, Any] | None = None,
    **known: Any,
) -> Family:
    def build(**more: Any) -> nn.Module:
        return tiny(model, **{**(options or {}), **more})

    return Family(name, build, size, prefix, grid, readout, **known)


def _test_vit3() -> nn.Module:
    """Timm's own test model: class token, attention-pooling head over all tokens, layer scale."""
    return tiny("test_vit3", img_size=64, depth=3, embed_dim=48, num_heads=3)


_SMALL = {"img_size": 64}

FAMILIES = {
    family.name: family
    for family in (
        _family(
            "vit", "vit_tiny_patch16_224", (64, 64), 1, (4, 4), "token", {"img_size": 64, "depth": 3}, layers=3
        ),
        _family("distilled", "deit_tiny_distilled_patch16_224", (64, 64), 2, (4, 4), "distilled", _SMALL),
        _family("dinov2_reg4", "vit_small_patch14_reg4_dinov2", (56, 56), 5, (4, 4), "token", {"img_size": 56}),
        _family("dinov3", "vit_small_patch16_dinov3", (48, 80), 5, (3, 5), "avg", _SMALL),
        _family("dinov3_qkvb", "vit_small_patch16_dinov3_qkvb", (64, 64), 5, (4, 4), "avg", _SMALL),
        _family("eva02", "eva02_tiny_patch14_224", (56, 56), 1, (4, 4), "avg", {"img_size": 56}),
        _family("beit", "beit_base_patch16_224", (64, 64), 1, (4, 4), "avg", _SMALL),
        _family("siglip", "vit_base_patch16_siglip_224", (64, 64), 0, (4, 4), "map", _SMALL),
        _family("relpos", "vit_relpos_small_patch16_224", (64, 64), 0, (4, 4), "avg", _SMALL),
        _family("reg4_gap", "vit_medium_patch16_reg4_gap_256", (64, 64), 4, (4, 4), "avg", _SMALL),
        Family(
            "test_vit3", _test_vit3, (64, 64), 1, (4, 4), "map", pool_prefix=True, layers=3, heads=3
        ),  # class token and map head
        _family("naflex", "naflexvit_base_patch16_gap", (48, 80), 4, (3, 5), "avg"),
        _family("naflex_map", "naflexvit_base_patch16_map", (64, 64), 1, (4, 4), "map"),
        _family("hybrid", "vit_tiny_r_s16_p8_224", (96, 96), 1, (3, 3), "token", {"img_size": 96}),
        _family("parallel_scaling", "vit_pwee_patch16_reg1_gap_256", (64, 64), 1, (4, 4), "avg", _SMALL),
        _family("rope_mixed", "vit_base_patch16_rope_mixed_224", (64, 64), 1, (4, 4), "token", _SMALL),
        _family("pe_map", "vit_pe_core_tiny_patch16_384", (64, 64), 1, (4, 4), "map", _SMALL),
        _family("non_square", "vit_tiny_patch16_224", (48, 96), 1, (3, 6), "token", {"img_size": (48, 96)}),
        _family("dynamic", "vit_tiny_patch16_224", (80, 48), 1, (5, 3), "token", {"dynamic_img_size": True}),
        _family(
            "padded",
            "vit_tiny_patch16_224",
            (60, 90),
            1,
            (4, 6),
            "token",
            {"dynamic_img_size": True, "dynamic_img_pad": True},
            extent=(64, 96),
        ),
        _family("winft", "winft_tiny_patch16_224", (64, 64), 1, (4, 4), "token", _SMALL),
        _family(
            "winft_inf",
            "winft_tiny_patch16_224",
            (48, 80),
            2,
            (3, 5),
            "avg",
            {
                "img_size": (48, 80),
                "window_fill": "-inf",
                "class_token": False,
                "reg_tokens": 2,
                "global_pool": "avg",
            },
        ),
    )
}
