"""Small ViTs that differ from timm's in code but not in weights, to compare with timm's."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import tiny

SIDE = 64

METHODS = ("attention_rollout", "generic_attention", "interaction_uncertainty", "attention_grad_cam")


def vit(**options: Any) -> Any:
    """Build a ViT of 4 x 4 patches and three layers in float64, with the same weights every time."""
    return tiny("vit_tiny_patch16_224", **{"img_size": SIDE, "depth": 3, **options}).double()


def images(batch: int = 2) -> Tensor:
    """Draw random images in float64."""
    return torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()


def assert_twins(model: nn.Module, twin: nn.Module, place: Callable[[Tensor], Tensor] = lambda maps: maps) -> None:
    """Compare the maps of two models; `place` puts the twin's patches where the model's are."""
    for name in METHODS:
        found = vi.EXPLAINERS[name](model).patch_map(images(), 1)
        wanted = place(vi.EXPLAINERS[name](twin).patch_map(images(), 1))
        assert wanted.abs().max() > 0
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


class Outer(nn.Module):
    """A ViT with functions before and after it."""

    def __init__(self, vit: nn.Module, before: Any = None, after: Any = None) -> None:
        """Take the ViT, and functions of the images and of its output."""
        super().__init__()
        self.vit = vit
        self.before, self.after = before or (lambda x: x), after or (lambda x: x)

    def forward(self, images: Tensor, *arguments: Any) -> Any:
        """Run the three."""
        return self.after(self.vit(self.before(images), *arguments))


class Attends(nn.Module):
    """An attention with timm's weights that attends by a given function of query, key and value."""

    def __init__(self, inner: Any, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        """Take the attention and the function."""
        super().__init__()
        self.inner, self.attend = inner, attend

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """Attend."""
        heads = self.inner.num_heads
        query, key, value = self.inner.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return self.inner.proj(self.attend(query, key, value).transpose(1, 2).flatten(2))


def attending(attend: Callable[[Tensor, Tensor, Tensor], Tensor], **options: Any) -> Any:
    """Build `vit` with another way to attend in all of its blocks."""
    model = vit(**options)
    for block in model.blocks:
        block.attn = Attends(block.attn, attend)
    return model


fused = F.scaled_dot_product_attention


def one_by_one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = range(query.shape[1])
    return torch.cat([fused(query[:, i : i + 1], key[:, i : i + 1], value[:, i : i + 1]) for i in heads], 1)
