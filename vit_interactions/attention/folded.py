"""Check models that fold heads into the batch, (batch · heads, tokens, width)."""

from collections.abc import Sequence

from vit_interactions.attention.errors import UnsupportedModelError, named
from vit_interactions.attention.record import AttentionCall

ALIKE = 1e-2  # relative difference up to which an image's query is the same, alone and beside another


def folded(calls: Sequence[AttentionCall]) -> list[int]:
    """Return the indices of the calls whose heads were folded into the batch."""
    return [index for index, call in enumerate(calls) if call.outputs[0].ndim == 3]


def check_folds(model: str, alone: Sequence[AttentionCall], beside: Sequence[AttentionCall]) -> None:
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
