"""Tests of attention whose heads are folded into the batch, in modules without a number of heads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explaining import assert_near
from tests.helpers.families import FAMILIES
from vit_interactions import UnsupportedModelError
from vit_interactions.attention.sdpa import read_sdpa, split_heads


class Folded(nn.Module):
    """Attention of a timm block with its heads folded into the batch, images or heads first."""

    def __init__(self, attention: Any, heads_first: bool = False) -> None:
        """Take the weights of one."""
        super().__init__()
        self.parts, self.qkv, self.proj = attention.num_heads, attention.qkv, attention.proj
        self.heads_first = heads_first

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        """Attend."""
        heads = self.qkv(tokens).unflatten(-1, (3, self.parts, -1)).permute(2, 0, 3, 1, 4)
        if self.heads_first:
            output = F.scaled_dot_product_attention(*heads.transpose(1, 2).flatten(1, 2))
            output = output.unflatten(0, (self.parts, -1)).transpose(0, 1)
        else:
            output = F.scaled_dot_product_attention(*heads.flatten(1, 2)).unflatten(0, (-1, self.parts))
        result: Tensor = self.proj(output.transpose(1, 2).flatten(2))
        return result


class Windowed(nn.Module):
    """Attention among every second token; both halves are folded into the batch as heads are."""

    def __init__(self, attention: Any) -> None:
        """Take the weights of one."""
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        """Attend."""
        halves = tokens.unflatten(1, (-1, 2)).transpose(1, 2).flatten(0, 1)
        output = F.scaled_dot_product_attention(*self.qkv(halves).chunk(3, -1))
        result: Tensor = self.proj(output.unflatten(0, (-1, 2)).transpose(1, 2).flatten(1, 2))
        return result


def folded(build: Callable[[Any], nn.Module], name: str = "vit") -> Any:
    model: Any = FAMILIES[name].build()
    for block in model.blocks:
        block.attn = build(block.attn)
    return model


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", [vi.AttentionRollout, vi.GenericAttention])
def test_the_number_of_images_tells_heads(method: type[vi.Explainer], batch: int) -> None:
    images = FAMILIES["vit"].images(batch)
    target = {"target": 1} if method.class_specific else {}
    expected = method(FAMILIES["vit"].build()).patch_map(images, **target)
    assert_near(method(folded(Folded)).patch_map(images, **target), expected)


def test_heads_before_images_are_refused() -> None:
    with pytest.raises(vi.UnsupportedModelError, match=r"`blocks\.0\.attn`.*heads of an image are not adjacent"):
        vi.probe(folded(lambda attention: Folded(attention, heads_first=True)), (64, 64))


def test_windows_are_no_heads() -> None:
    with pytest.raises(vi.UnsupportedModelError, match=r"`blocks\.0\.attn` attends within windows"):
        vi.probe(folded(Windowed, "relpos"), (64, 64))


def test_masks_are_split_like_queries_and_a_remainder_is_refused() -> None:
    query, mask = (
        torch.arange(6.0)[:, None, None].expand(6, 5, 4),
        torch.arange(6.0)[:, None, None].expand(6, 5, 5),
    )
    given = split_heads(nn.Identity(), "attn", read_sdpa(query, query, query, mask), images=2)
    assert given.query[..., 0, 0].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert given.mask is not None
    assert torch.equal(given.mask, mask.reshape(2, 3, 5, 5))
    with pytest.raises(
        UnsupportedModelError, match=r"`attn` calls .* its heads cannot be separated from its batch"
    ):
        split_heads(nn.Identity(), "attn", read_sdpa(query, query, query), images=4)
