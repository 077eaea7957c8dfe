"""Open torch.nn.MultiheadAttention, whose attention happens inside one opaque call.

To a `TorchFunctionMode`, `F.multi_head_attention_forward` is a single function, and calling it again within the mode
only arrives at the mode again. Here the same code runs with other globals: nothing leads it back there, and its
scaled dot-product attention is seen. Torch itself is not changed, in this thread or any other. PyTorch's fast path,
which runs whole layers at once, is off by itself wherever a mode is active.
"""

import inspect
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.sdpa import SDPA, read_sdpa

_OPAQUE: Any = F.multi_head_attention_forward
_SIGNATURE = inspect.signature(_OPAQUE)


def attend(
    mode: AbstractContextManager[Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Run `F.multi_head_attention_forward` so that a mode sees the scaled dot-product attention in it.

    Args:
        mode: the mode, which is not active.
        name: the module that attends, for messages.
        args: positional arguments of `F.multi_head_attention_forward`.
        kwargs: its keyword arguments.

    Returns:
        What the function returns. Asked for weights, it would take an explicit softmax; they are computed from the
        same queries and keys instead, without dropout.

    Raises:
        UnsupportedModelError: keys that are no tokens (`add_bias_kv`, `add_zero_attn`); a gradient that takes the
            way through the returned weights, which that at the output does not show.
    """
    given = _SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    if given.arguments["bias_k"] is not None or given.arguments["add_zero_attn"]:
        raise UnsupportedModelError(
            f"`{name}` attends to a key that is no token (`add_bias_kv` or `add_zero_attn`), so its attention among "
            "tokens does not sum to 1. Build it without."
        )
    need_weights, given.arguments["need_weights"] = given.arguments["need_weights"], False
    seen: list[tuple[SDPA, Tensor]] = []

    def attention(*args: Any, **kwargs: Any) -> Tensor:
        result = F.scaled_dot_product_attention(*args, **kwargs)
        seen.append((read_sdpa(*args, **kwargs), result))
        return result

    changes = {"has_torch_function": lambda _: False, "scaled_dot_product_attention": attention}
    opened = FunctionType(_OPAQUE.__code__, {**vars(F), **changes}, name, _OPAQUE.__defaults__)
    with mode:
        output, _ = opened(*given.args, **given.kwargs)
    if not need_weights:
        return output, None
    # Out of sight of every mode: beside what the model computes its answer by.
    call, result = seen[0]
    with torch._C.DisableTorchFunction():
        weights = _Returned.apply(call.attention().to(output.dtype), result, name)
        weights = weights.mean(1) if given.arguments["average_attn_weights"] else weights
        return output, weights if given.arguments["query"].ndim == 3 else weights.squeeze(0)


class _Returned(torch.autograd.Function):
    """An identity on attention weights that raises if a gradient flows through them.

    That they seem to depend on the attention's output lets every backward pass to that output come by here.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, output: Tensor, name: str) -> Tensor:
        ctx.layer = name
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if gradients[0].any():
            raise UnsupportedModelError(
                f"the score depends on the attention weights that `{ctx.layer}` returns, so that the gradient at its "
                "output is not the whole gradient at its attention. Explain a score that does not use the weights."
            )
        return gradients[0], None, None
