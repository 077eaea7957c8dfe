"""Read a call of window-free attention as one of scaled dot-product attention."""

from typing import Any

from torch import Tensor

from vit_interactions.functional.window_free import WindowFree, token_window


def as_dot_product(
    result: WindowFree,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_prefix: int,
    window_fill: str = "zero",
    scale: float | None = None,
    dropout: float = 0.0,
) -> dict[str, Any]:
    """Name what a call of `window_free_attention` was given, and the windows it found, as for a dot-product attention.

    Where pairs outside the windows are left out, the windows are a mask; where their scores are 0, they are `window`.
    """
    window = token_window(result.mask, num_prefix)
    return {
        "output": result.output,
        "query": query,
        "key": key,
        "value": value,
        "dropout_p": dropout,
        "scale": scale,
        "window" if window_fill == "zero" else "attn_mask": window,
    }
