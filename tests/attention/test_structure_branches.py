"""Test that heads in separate modules are merged, and that branches, cuts and further towers raise errors."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import tiny
from tests.helpers.twins import SIDE, Outer, assert_twins, fused, images, vit
from vit_interactions import UnsupportedModelError


class Head(nn.Module):
    """One head of an attention of timm."""

    def __init__(self, inner: Any, index: int) -> None:
        """Take the attention and which head."""
        super().__init__()
        self.qkv, self.heads, self.index = inner.qkv, inner.num_heads, index

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (batch, tokens, width)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1))[:, :, :, self.index].unbind(2)
        return fused(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)).squeeze(1)


class Heads(nn.Module):
    """An attention of one module per head."""

    def __init__(self, inner: Any) -> None:
        """Take the attention."""
        super().__init__()
        self.heads = nn.ModuleList(Head(inner, index) for index in range(inner.num_heads))
        self.proj = inner.proj

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """Concatenate the heads."""
        return self.proj(torch.cat([head(x) for head in self.heads], -1))


def test_heads_in_modules_of_their_own_are_joined() -> None:
    model = vit(num_heads=4)
    for block in model.blocks:
        block.attn = Heads(block.attn)
    assert_twins(model, vit(num_heads=4))


class Blocks(nn.Module):
    """Three blocks that are run by a function."""

    def __init__(self, blocks: nn.Module, run: Any) -> None:
        """Take the blocks and the function."""
        super().__init__()
        self.blocks, self.run = blocks, run

    def forward(self, x: Tensor) -> Tensor:
        """Run them."""
        return self.run(x, *self.blocks)


REFUSED: dict[str, tuple[Any, str]] = {
    "branches of several layers": (
        lambda x, one, two, three: two(one(x)) + three(x),
        r"does not depend on `blocks\.blocks\.0\.attn`, which ran before it.*parallel branches",
    ),
    "a cut between two layers": (
        lambda x, one, two, three: three(two(one(x).detach()) + x),
        r"the gradient is cut: `blocks` uses `detach` or `torch\.no_grad`",
    ),
    "tokens dropped for bright images": (
        lambda x, one, two, three: three(two(one(x)[:, : 9 if x.mean() > 1e3 else 17])),
        r"`blocks\.blocks\.1\.attn` attends with a query of shape .*layers depend on the image",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_blocks_that_do_not_simply_follow_one_another_are_refused(name: str) -> None:
    run, why = REFUSED[name]
    model = vit()
    model.blocks = Blocks(model.blocks, run)
    with pytest.raises(UnsupportedModelError, match=why):
        vi.AttentionRollout(model).patch_map(images() * (1e5 if name.startswith("tokens") else 1))


class TwoPools(nn.Module):
    """Two attention pooling heads side by side."""

    def __init__(self, *pools: nn.Module) -> None:
        """Take both."""
        super().__init__()
        self.pools = nn.ModuleList(pools)

    def forward(self, x: Tensor) -> Tensor:
        """Add up what they read."""
        return sum(pool(x) for pool in self.pools)


def test_two_pooling_heads_are_refused() -> None:
    model, other = (tiny("vit_base_patch16_siglip_224", img_size=SIDE).double() for _ in range(2))
    model.attn_pool = TwoPools(model.attn_pool, other.attn_pool)
    with pytest.raises(
        UnsupportedModelError, match=r"`attn_pool\.pools\.0` is an attention pool from 16 tokens to 1"
    ):
        vi.AttentionRollout(model).patch_map(images())


def test_the_prefix_token_that_is_read_comes_first() -> None:
    def second(tokens: Tensor) -> Tensor:
        return tokens[:, 1]

    model = tiny("vit_small_patch14_reg4_dinov2", img_size=SIDE, patch_size=16).double()
    layout = vi.probe(Outer(model, after=lambda x: x), (SIDE, SIDE)).layout
    model.pool = lambda x, *_, **__: second(x)
    seen = vi.probe(model, (SIDE, SIDE)).layout
    assert layout.order is None
    assert (seen.readout, seen.order[:2]) == ("token", (1, 0))


def test_a_second_way_from_the_last_layer_to_the_output_is_no_fixed_share() -> None:
    kept: list[Tensor] = []
    model = vit()
    model.blocks[2].attn.register_forward_hook(lambda _, args, output: kept.append(output))
    whole = Outer(model, after=lambda scores: scores + kept.pop().mean((1, 2))[:, None])
    assert vi.probe(whole, (SIDE, SIDE)).layout.readout == "other"
    with pytest.raises(UnsupportedModelError, match="do not have fixed weights in the output"):
        vi.AttentionRollout(whole).patch_map(images())


def test_heads_that_attend_among_other_patches_each_are_refused() -> None:
    class Shifted(Head):
        """A head for which the patches come in another order."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.cat((x[:, :1], x[:, 1:].roll(1, 1)), 1))

    model = vit(num_heads=4)
    for block in model.blocks:
        attention = Heads(block.attn)
        attention.heads[1] = Shifted(block.attn, 1)
        block.attn = attention
    with pytest.raises(UnsupportedModelError, match="its heads attend among other patches each"):
        vi.AttentionRollout(model).patch_map(images())
