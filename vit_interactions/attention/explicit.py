"""Read attention that a model computes itself: softmax(...) and then a product with values of the same module."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.sdpa import SDPA
from vit_interactions.functional.attention import at_least_float32

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
    """A mode that follows the results of softmaxes until they multiply values."""

    def __init__(self) -> None:
        """Start without any."""
        self._suspects: dict[_Softmax, str] = {}
        self._live: dict[int, tuple[Tensor, _Softmax]] = {}

    def follow(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        """Follow the result of a softmax that a module computed; those of classifiers and of outputs never multiply."""
        if result.ndim > 2:
            scores = args[0] if args else kwargs["input"]
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            self._live[id(result)] = (result, _Softmax(name, scores, axis in (-1, result.ndim - 1)))

    def read(self, name: str, func: Any, args: tuple[Any, ...], result: Any) -> SDPA | None:
        """Inspect a function that a module called; return the attention if it multiplies probabilities and values."""
        kind = getattr(func, "__name__", "")
        if kind in _CARRIERS and args and id(args[0]) in self._live and isinstance(result, Tensor):
            self._live[id(result)] = (result, self._live[id(args[0])][1])
        elif kind in _PRODUCTS:
            return self._product(name, kind, args)
        return None

    @property
    def unread(self) -> list[str]:
        """Modules whose softmax took part in a product of a form that cannot be read as attention."""
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
            # Out of sight of the modes that the model runs under: this is no operation of its own.
            with torch._C.DisableTorchFunction():
                return read_explicit(found.scores.reshape(factors[0].shape), factors[1])
        # Gates and routers multiply too; what has heads, or is square, is attention in another form, unless it
        # multiplies values later: some models compute the softmaxes of all heads first.
        for _, live in self._live.values():
            if _inside(live.owner, name) and _is_attention(live.scores):
                self._suspects.setdefault(live, name)
        return None


@dataclass(frozen=True, eq=False)
class _Softmax:
    """A softmax that a module computed.

    Attributes:
        owner: name of the module.
        scores: what the softmax was taken of.
        in_rows: whether it was taken over the last axis, as attention is.
    """

    owner: str
    scores: Tensor
    in_rows: bool


def read_explicit(scores: Tensor, value: Tensor) -> SDPA:
    """Write softmax(scores) value as scaled dot-product attention: the scores are the queries of keys 1.

    Args:
        scores: (..., queries, keys), -inf where a key takes no part.
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


def _is_attention(scores: Tensor) -> bool:
    return scores.ndim > 3 or scores.shape[-1] == scores.shape[-2]


def _rows_by_columns(equation: Any) -> bool:
    """Check whether an einsum equation multiplies matrices: "bhqk,bhkd->bhqd"."""
    if not isinstance(equation, str) or "->" not in equation:
        return False
    factors, product = equation.replace(" ", "").split("->")
    first, _, second = factors.partition(",")
    if min(map(len, (first, second, product))) < 2:
        return False
    batch = first[:-2] == second[:-2] == product[:-2]
    return batch and first[-1] == second[-2] and product[-2:] == first[-2] + second[-1]
