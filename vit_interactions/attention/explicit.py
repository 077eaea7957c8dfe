"""Read attention that a model computes itself: softmax(...) and then a product with values of the same module."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.sdpa import SDPA

SOFTMAXES = (F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax)
_PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "einsum"})
# What models do with the probabilities before they multiply values; in evaluation mode they stay what they are.
_CARRIERS = frozenset(
    {
        "dropout",
        "to",
        "type",
        "type_as",
        "float",
        "double",
        "half",
        "bfloat16",
        "contiguous",
        "clone",
        "nan_to_num",
    }
    | {"view", "reshape"}
)


class SoftmaxWatch:
    """Follows the results of softmaxes until they multiply values."""

    def __init__(self) -> None:
        """Start without any."""
        self._suspects: dict[int, str] = {}
        self._live: dict[int, tuple[Tensor, Tensor, str]] = {}

    def follow(self, name: str, result: Tensor) -> None:
        """Follow the result of a softmax that a module computed; those of classifiers and of outputs never multiply."""
        if result.ndim > 2:
            self._live[id(result)] = (result, result, name)

    def read(self, name: str, func: Any, args: tuple[Any, ...], result: Any) -> SDPA | None:
        """Look at a function that a module called: return the attention if it multiplies probabilities and values."""
        kind = getattr(func, "__name__", "")
        if kind in _CARRIERS and args and id(args[0]) in self._live and isinstance(result, Tensor):
            self._live[id(result)] = (result, *self._live[id(args[0])][1:])
        elif kind in _PRODUCTS:
            return self._product(name, kind, args)
        return None

    @property
    def unread(self) -> list[str]:
        """Modules whose softmax took part in a product of a form that cannot be read as attention."""
        return list(self._suspects.values())

    @property
    def watching(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self._live)

    def _product(self, name: str, kind: str, args: tuple[Any, ...]) -> SDPA | None:
        factors = [arg for arg in args if isinstance(arg, Tensor) and not isinstance(arg, nn.Parameter)]
        if len(factors) != 2:
            return None
        found = self._live.get(id(factors[0]))
        if found is not None and _inside(found[2], name) and (kind != "einsum" or _rows_by_columns(args[0])):
            self._live = {key: live for key, live in self._live.items() if live[1] is not found[1]}
            self._suspects.pop(id(found[1]), None)
            return read_explicit(factors[0], factors[1])
        # Gates and routers multiply too; what has heads, or is square, is attention in another form, unless it
        # multiplies values later: some models compute the softmaxes of all heads first.
        for _, source, owner in self._live.values():
            if _inside(owner, name) and _is_attention(source):
                self._suspects.setdefault(id(source), name)
        return None


def read_explicit(attention: Tensor, value: Tensor) -> SDPA:
    """Write probabilities as scaled dot-product attention that has them: softmax(log(A) 1ᵀ) = A.

    Args:
        attention: (..., queries, keys), rows that sum to 1.
        value: (..., keys, width).

    Example:
        >>> attention = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
        >>> read_explicit(attention, torch.ones(1, 1, 2, 3)).attention()
        tensor([[[[0.2500, 0.7500],
                  [0.5000, 0.5000]]]])
    """
    probabilities = attention.to(torch.promote_types(attention.dtype, torch.float32))
    query = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    key = torch.eye(query.shape[-1], device=query.device, dtype=query.dtype).expand(*query.shape[:-2], -1, -1)
    return SDPA(query, key, value, mask=None, dropout=0.0, is_causal=False, scale=1.0, window=None)


def _inside(owner: str, name: str) -> bool:
    """Whether a module is another, or inside it."""
    return owner == name or owner.startswith(f"{name}." if name else "")


def _is_attention(probabilities: Tensor) -> bool:
    return probabilities.ndim > 3 or probabilities.shape[-1] == probabilities.shape[-2]


def _rows_by_columns(equation: Any) -> bool:
    """Whether an equation of einsum multiplies matrices: "bhqk,bhkd->bhqd"."""
    if not isinstance(equation, str) or "->" not in equation:
        return False
    factors, product = equation.replace(" ", "").split("->")
    first, _, second = factors.partition(",")
    if min(map(len, (first, second, product))) < 2:
        return False
    batch = first[:-2] == second[:-2] == product[:-2]
    return batch and first[-1] == second[-2] and product[-2:] == first[-2] + second[-1]
