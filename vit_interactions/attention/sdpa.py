"""The arguments of `torch.nn.functional.scaled_dot_product_attention`, normalized to one form."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError, named
from vit_interactions.functional.attention import attention_probabilities, attention_scores
from vit_interactions.functional.window_free import WindowFree, token_window


@dataclass(frozen=True, eq=False)
class SDPA:
    """The arguments of one call, which computes its attention on demand.

    Attributes:
        query: (batch, heads, queries, width), or with more batch axes if the model passed them.
        key: (batch, heads, keys, width); heads that the model shares (`enable_gqa`) are repeated.
        value: (batch, heads, keys, width), with heads repeated in the same way.
        mask: the model's `attn_mask`.
        dropout: dropout probability of the call; 0 in evaluation.
        is_causal: the model's `is_causal`.
        scale: factor of the scores; None means 1 / sqrt(width).
        window: (batch, 1, queries, keys) bool in window-free attention, whose scores outside are 0; None otherwise.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout: float
    is_causal: bool
    scale: float | None
    window: Tensor | None

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the functions in `functional.attention`, after query, key and mask."""
        return {"is_causal": self.is_causal, "scale": self.scale, "window": self.window}

    def run(self, function: Callable[..., Any]) -> Any:
        """Call a function that has the signature of `scaled_dot_product_attention`, without `window`."""
        given = (self.query, self.key, self.value, self.mask, self.dropout, self.is_causal)
        return function(*given, scale=self.scale)

    @torch.no_grad()
    def attention(self) -> Tensor:
        """Compute the attention (batch, heads, queries, keys) without dropout, at least float32, outside the graph."""
        return attention_probabilities(self.query, self.key, self.mask, **self.options)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Compute the scores before the softmax, (batch, heads, queries, keys), at least float32, outside the graph."""
        return attention_scores(self.query, self.key, self.mask, **self.options)


def read_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> SDPA:
    """Read the arguments of `scaled_dot_product_attention`, whose names and order these are.

    Example:
        >>> query, shared = torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 3, 8)
        >>> read_sdpa(query, shared, shared, enable_gqa=True).key.shape
        torch.Size([1, 4, 3, 8])
    """
    if enable_gqa:
        key, value = (
            shared.repeat_interleave(query.shape[-3] // shared.shape[-3], dim=-3) for shared in (key, value)
        )
    return SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale, window=None)


def read_window_free(
    result: WindowFree,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_prefix: int,
    window_fill: str = "zero",
    scale: float | None = None,
    dropout: float = 0.0,
) -> SDPA:
    """Read the arguments of `window_free_attention`, whose names and order these are, and the windows it found.

    The windows become a mask if pairs outside are masked, and `window` if their scores are 0.
    """
    window = token_window(result.mask, num_prefix)
    zeroed = window_fill == "zero"
    given = (query, key, value, None if zeroed else window, dropout, False, scale)
    return SDPA(*given, window=window if zeroed else None)


def split_heads(module: nn.Module, name: str, given: SDPA, images: int | None) -> SDPA:
    """Split a query (batch · heads, tokens, width) into (batch, heads, tokens, width); same for key, value and mask.

    Args:
        module: the attention module; its `num_heads` is used if it has one.
        name: name of the module, for messages.
        given: the arguments of its attention.
        images: number of images that the model got; None if unknown.

    Raises:
        UnsupportedModelError: a query that cannot be split into heads per image.

    Example:
        >>> import torch
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
            f"{images} image{'' if images == 1 else 's'}; its heads cannot be separated from its batch without an "
            "attribute `num_heads` on that module."
        )

    def split(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, heads, *tensor.shape[1:])

    mask = given.mask
    if mask is not None and mask.ndim == 3 and mask.shape[0] != 1:
        mask = split(mask)
    return replace(given, query=split(given.query), key=split(given.key), value=split(given.value), mask=mask)
