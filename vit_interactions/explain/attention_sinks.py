"""Find the attention sinks of a model's images in one forward pass."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import observe
from vit_interactions.attention.own_input import own_input
from vit_interactions.attention.record import AttentionCall
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.functional.attention import BlockIndex
from vit_interactions.functional.attention_sinks import AttentionSinks, RunningSinks


def attention_sinks(model: nn.Module, images: Tensor, additional_forward_args: Any = None) -> AttentionSinks:
    """Find the tokens that receive attention out of proportion, per layer and head and for the image as a whole.

    A token is a sink of a head if it receives more than max(5, median + 10 σ) times the attention of uniform attention,
    and a sink of the image if its attention averaged over layers and heads does; see
    `functional.attention_sinks.exceeds_limit` for σ, sources and reasons. Attention is stored nowhere.

    Args:
        model: any ViT whose layers have equally many heads.
        images: (batch, channels, height, width).
        additional_forward_args: further arguments of the model; a tuple is spread.

    Returns:
        The attention received, the norms of values, and the sinks. `sinks.patches` marks those among the patches.

    Raises:
        UnsupportedModelError: attention that is not from every patch to every patch.
        ValueError: layers with different heads, or attention that is not finite.

    Example:
        >>> import timm, torch
        >>> sinks = attention_sinks(timm.create_model("test_vit"), torch.zeros(1, 3, 160, 160))
        >>> sinks.received.shape, sinks.patches.sum()
        (torch.Size([1, 6, 2, 101]), tensor(0))
    """
    running = RunningSinks()

    def take_in(call: AttentionCall, layout: TokenLayout) -> None:
        for _ in watch(running, call, layout):
            pass

    with own_input(images) as own:
        seen = observe(unwrap(model), own, additional_forward_args, take_in)
    return running.result(seen.layout.grid)


def watch(running: RunningSinks, call: AttentionCall, layout: TokenLayout) -> Iterator[tuple[BlockIndex, Tensor]]:
    """Pass on the attention among patches of one layer, as `AttentionCall.blocks`, and add it to the running sinks."""
    batch, heads, tokens = call.query.shape[:3]
    rows = call.rows(layout.prefix)
    return running.watch(rows, call.value, (batch, heads, tokens), layout.prefix, call.name)
