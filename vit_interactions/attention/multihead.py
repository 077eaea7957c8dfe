"""Read the attention of torch.nn.MultiheadAttention, which happens inside one opaque call.

To a `TorchFunctionMode`, `F.multi_head_attention_forward` is a single function, and calling it within the mode only
enters the mode again. So the same code runs here with other globals, which do not dispatch to the mode and record its
scaled dot-product attention. Torch itself is not changed, in this thread or any other. PyTorch's fast path, which runs
whole layers at once, is off whenever a mode is active.
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
    """Run `F.multi_head_attention_forward` so that a mode, not yet active, sees the attention in it.

    Returns:
        The output and the weights of the function. To return weights, it would compute an explicit softmax; they are
        computed from the same queries and keys instead, without dropout.

    Raises:
        UnsupportedModelError: keys that are not tokens (`add_bias_kv`, `add_zero_attn`); a gradient through the
            returned weights, which the gradient at the output does not include.
    """
    given = _SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    if given.arguments["bias_k"] is not None or given.arguments["add_zero_attn"]:
        raise UnsupportedModelError(
            f"`{name}` attends to a key that is not a token (`add_bias_kv` or `add_zero_attn`), so its attention among "
            "tokens does not sum to 1. Build it without."
        )
    need_weights, given.arguments["need_weights"] = given.arguments["need_weights"], False
    recorded: list[tuple[SDPA, Tensor]] = []

    def attention(*args: Any, **kwargs: Any) -> Tensor:
        result = F.scaled_dot_product_attention(*args, **kwargs)
        recorded.append((read_sdpa(*args, **kwargs), result))
        return result

    changes = {"has_torch_function": lambda _: False, "scaled_dot_product_attention": attention}
    opened = FunctionType(_OPAQUE.__code__, {**vars(F), **changes}, name, _OPAQUE.__defaults__)
    with mode:
        output, _ = opened(*given.args, **given.kwargs)
    if not need_weights:
        return output, None
    # Hidden from every mode: the model's output does not depend on it.
    call, result = recorded[0]
    with torch._C.DisableTorchFunction():
        weights = _Returned.apply(call.attention().to(output.dtype), result, name)
        weights = weights.mean(1) if given.arguments["average_attn_weights"] else weights
        return output, weights if given.arguments["query"].ndim == 3 else weights.squeeze(0)


class _Returned(torch.autograd.Function):
    """An identity on attention weights that raises if a gradient flows through them.

    `output` is an argument so that every backward pass to it runs `backward`.
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
