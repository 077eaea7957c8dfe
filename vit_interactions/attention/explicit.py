"""Read explicit attention: a softmax whose result multiplies values in the same module."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.sdpa import SDPA
from vit_interactions.functional.attention import at_least_float32

SOFTMAXES = (F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax)
_PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "einsum"})
# Functions between the softmax and the product; in evaluation mode they do not change the probabilities.
_TYPES = frozenset({"to", "type", "type_as", "float", "double", "half", "bfloat16"})
_NEUTRAL = _TYPES | {"dropout", "contiguous", "clone", "nan_to_num", "view", "reshape"}


class SoftmaxWatch:
    """A watch that follows the results of softmaxes until they multiply values."""

    def __init__(self) -> None:
        """Create a watch that follows nothing yet."""
        self._suspects: dict[_Softmax, str] = {}
        self._live: dict[int, tuple[Tensor, _Softmax]] = {}

    def follow(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        """Follow the result of a softmax that a module computed."""
        if result.ndim > 2:  # not that of a classifier
            scores = args[0] if args else kwargs["input"]
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            self._live[id(result)] = (result, _Softmax(name, scores, axis in (-1, result.ndim - 1)))

    def read(self, name: str, func: Any, args: tuple[Any, ...], result: Any) -> SDPA | None:
        """Return the attention if a function that a module called multiplies probabilities and values."""
        kind = getattr(func, "__name__", "")
        if kind in _NEUTRAL and args and id(args[0]) in self._live and isinstance(result, Tensor):
            self._live[id(result)] = (result, self._live[id(args[0])][1])
        elif kind in _PRODUCTS:
            return self._product(name, kind, args)
        return None

    @property
    def unread(self) -> list[str]:
        """The modules whose softmax is part of a product that cannot be read as attention."""
        return list(self._suspects.values())

    @property
    def watching(self) -> bool:
        """Return whether there is anything to follow."""
        return bool(self._live)

    def _product(self, name: str, kind: str, args: tuple[Any, ...]) -> SDPA | None:
        factors = [arg for arg in args if isinstance(arg, Tensor) and not isinstance(arg, nn.Parameter)]
        if len(factors) != 2:
            return None
        _, found = self._live.get(id(factors[0]), (None, None))
        readable = found is not None and found.in_rows and (kind != "einsum" or _rows_by_columns(args[0]))
        if found is not None and readable and _inside(found.owner, name):
            self._live = {key: live for key, live in self._live.items() if live[1] is not found}
            self._suspects.pop(found, None)
            # Hidden from the modes that the model runs under: this is not one of its operations.
            with torch._C.DisableTorchFunction():
                return read_explicit(found.scores.reshape(factors[0].shape), factors[1])
        # Gates and routers multiply too. A softmax with heads, or a square one, is attention in another form, unless
        # it multiplies values later: some models compute the softmaxes of all heads first.
        for _, live in self._live.values():
            square = live.scores.shape[-1] == live.scores.shape[-2]
            if _inside(live.owner, name) and (square or live.scores.ndim > 3):
                self._suspects.setdefault(live, name)
        return None


@dataclass(frozen=True, eq=False)
class _Softmax:
    """A softmax of `scores` that the module `owner` computed; `in_rows` if over the last axis, as attention is."""

    owner: str
    scores: Tensor
    in_rows: bool


def read_explicit(scores: Tensor, value: Tensor) -> SDPA:
    """Write softmax(scores) value as scaled dot-product attention: the scores are the queries of keys 1.

    Args:
        scores: (..., queries, keys), -inf for masked keys.
        value: (..., keys, width).

    Example:
        >>> read_explicit(torch.tensor([[[[0.0, -torch.inf], [0.0, 0.0]]]]), torch.ones(1, 1, 2, 3)).attention()
        tensor([[[[1.0000, 0.0000],
                  [0.5000, 0.5000]]]])
    """
    query = at_least_float32(scores)
    query = query.clamp_min(torch.finfo(query.dtype).min / 2)  # -inf times the zeros of the keys would be NaN
    key = torch.eye(query.shape[-1], device=query.device, dtype=query.dtype).expand(*query.shape[:-2], -1, -1)
    return SDPA(query, key, value, mask=None, dropout=0.0, is_causal=False, scale=1.0, window=None)


def _inside(owner: str, name: str) -> bool:
    """Check whether a module is another, or inside it."""
    return owner == name or owner.startswith(f"{name}." if name else "")


def _rows_by_columns(equation: Any) -> bool:
    """Check whether an einsum equation multiplies matrices, as "bhqk,bhkd->bhqd" does."""
    if not isinstance(equation, str) or "->" not in equation:
        return False
    factors, product = equation.replace(" ", "").split("->")
    first, _, second = factors.partition(",")
    if min(map(len, (first, second, product))) < 2:
        return False
    batch = first[:-2] == second[:-2] == product[:-2]
    return batch and first[-1] == second[-2] and product[-2:] == first[-2] + second[-1]
