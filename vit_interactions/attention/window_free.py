"""Read a call of window-free attention as one of scaled dot-product attention."""

from torch import Tensor

from vit_interactions.attention.sdpa import SDPA
from vit_interactions.functional.window_free import WindowFree, token_window


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
