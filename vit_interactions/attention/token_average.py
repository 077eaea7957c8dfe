"""Average only the tokens that are shown, in models whose output is an average of tokens.

A masked token must be neither a key of attention nor part of the average. The average is found as the one call of
`mean` over the tokens after the last attention. To verify that the model reads a masked token nowhere else, masked
tokens are NaN from the last attention on: if one is read, the output is NaN, which is an error.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MEANS = (torch.mean, Tensor.mean)


def forget_masked(output: Tensor, shown: Tensor) -> Tensor:
    """Replace an attention's output at masked tokens by NaN.

    Args:
        output: (batch, heads, tokens, width); the batch axis may include the heads.
        shown: (batch, tokens) bool.

    Returns:
        A tensor of the output's shape.

    Example:
        >>> forget_masked(torch.ones(1, 2, 1), torch.tensor([[True, False]]))
        tensor([[[1.],
                 [nan]]])
    """
    keep = shown.repeat_interleave(output.shape[0] // len(shown), 0)
    keep = keep.reshape(len(keep), *(1,) * (output.ndim - 3), -1, 1)
    return output.masked_fill(~keep, float("nan"))


def averaged_axis(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the tensor that a call averages over axis 1 of 3, as tokens are averaged; None for other calls."""
    if func not in MEANS:
        return None
    given = dict(zip(("input", "dim", "keepdim"), args, strict=False)) | kwargs
    values, dim = given.get("input"), given.get("dim", given.get("axis"))
    dims = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
    return values if isinstance(values, Tensor) and values.ndim == 3 and dims in ((1,), (-2,)) else None


def mean_of_shown(values: Tensor, shown: Tensor) -> Tensor:
    """Average the shown tokens of each image; the average of none is 0, as an empty sum.

    Args:
        values: (batch, tokens, width).
        shown: (batch, tokens or patches) bool; if there are more tokens than that, the first ones are shown.

    Returns:
        (batch, 1, width).

    Example:
        >>> values, shown = torch.tensor([[[1.0], [5.0], [9.0]]]), torch.tensor([[True, False, True]])
        >>> mean_of_shown(values, shown), mean_of_shown(values, ~shown & False)
        (tensor([[[5.]]]), tensor([[[0.]]]))
    """
    keep = F.pad(shown, (values.shape[1] - shown.shape[1], 0), value=True).unsqueeze(2)
    total = values.masked_fill(~keep, 0).sum(1, keepdim=True)
    return total / keep.sum(1, keepdim=True).clamp(min=1)
