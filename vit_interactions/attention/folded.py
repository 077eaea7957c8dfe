"""Undo the folding of heads into the batch, (batch · heads, tokens, width), that some models do."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError, named
from vit_interactions.attention.sdpa import SDPA

if TYPE_CHECKING:
    from vit_interactions.attention.record import AttentionCall

ALIKE = 1e-2  # relative difference up to which an image's query is the same, alone and beside another


def split_heads(module: nn.Module, name: str, given: SDPA, images: int | None) -> SDPA:
    """Split a query (batch · heads, tokens, width) into (batch, heads, tokens, width); keys, values and mask likewise.

    Args:
        module: what attends; its `num_heads` is believed, where it has one.
        name: of the module, for the message.
        given: what it attends with.
        images: how many images the model was given; None where that is not known.

    Raises:
        UnsupportedModelError: a query that is not made of as many heads for each image.

    Example:
        >>> import torch
        >>> from vit_interactions.attention.sdpa import read_sdpa
        >>> query = torch.zeros(6, 5, 4)
        >>> split_heads(nn.Identity(), "attn", read_sdpa(query, query, query), images=2).query.shape
        torch.Size([2, 3, 5, 4])
    """
    folded, heads = given.query.shape[0], getattr(module, "num_heads", None)
    if not isinstance(heads, int) and images:
        heads = folded // images if folded % images == 0 else None
    if not isinstance(heads, int) or folded % heads:
        raise UnsupportedModelError(
            f"{named(name)} calls scaled_dot_product_attention with a query of shape {tuple(given.query.shape)} for "
            f"{images} image{'' if images == 1 else 's'}; its heads cannot be told from its batch without an "
            "attribute `num_heads` on that module."
        )

    def split(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, heads, *tensor.shape[1:])

    mask = given.mask
    if mask is not None and mask.ndim == 3 and mask.shape[0] != 1:
        mask = split(mask)
    return replace(given, query=split(given.query), key=split(given.key), value=split(given.value), mask=mask)


def folded(calls: Sequence["AttentionCall"]) -> list[int]:
    """Return the indices of the calls whose heads were folded into the batch."""
    return [index for index, call in enumerate(calls) if call.outputs[0].ndim == 3]


def check_folds(model: str, alone: Sequence["AttentionCall"], beside: Sequence["AttentionCall"]) -> None:
    """Raise UnsupportedModelError unless the heads of an image stay together when another image comes after it.

    Args:
        model: its name.
        alone: the calls for one image.
        beside: the calls for that image and another one.
    """
    for index in folded(alone):
        one, two = alone[index].query[0], beside[index].query[0] if index < len(beside) else None
        if two is None or one.shape != two.shape or (one - two).norm() > ALIKE * one.norm():
            raise UnsupportedModelError(
                f"{named(alone[index].name)} of {model} folds its heads into the batch in an order in which the "
                "heads of "
                "an image do not lie together, so that it cannot be told which head is of which image. Fold as "
                "(batch · heads), or call scaled_dot_product_attention with (batch, heads, tokens, width)."
            )
