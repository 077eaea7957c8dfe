"""The options of a method: arguments of its constructor, with defaults and allowed values, and their parsing."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from vit_interactions.explain import Explainer


class Option(NamedTuple):
    """An option that text can set, printed with its default first: norm=l2|l1.

    Attributes:
        name: of the constructor's argument.
        default: its default.
        allowed: types and single values that it takes.
    """

    name: str
    default: Any
    allowed: tuple[Any, ...]

    def parse(self, text: str, method: str) -> Any:
        """Read a value of the option.

        Raises:
            ValueError: a value that is not allowed.

        Example:
            >>> options_of(Explainer)
            {}
            >>> Option("start", None, (NoneType, int)).parse("4", "beyond_intuition")
            4
        """
        for each in self.allowed:
            with suppress(ValueError, KeyError):
                return READERS[each](text) if each in READERS else {str(each): each}[text]
        *others, last = map(_typed, self.allowed)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"`{self.name}` of {method} must be {expected}, got {text!r}.")

    def __str__(self) -> str:
        others = (each for each in self.allowed if each not in (self.default, type(self.default)))
        return f"{self.name}={'|'.join(map(_typed, (self.default, *others)))}"


def options_of(kind: type[Explainer]) -> dict[str, Option]:
    """List the options of a method that text can set.

    The annotations of the constructor decide which values are allowed; without one, the type of the default.

    Example:
        >>> from vit_interactions.explain import AttentionRollout
        >>> print(*options_of(AttentionRollout).values())
        fusion=mean|max|min discard=0.0 alpha=1.0 start_layer=0 exclude_sinks=false
    """
    hints: dict[str, Any] = {}
    with suppress(NameError):  # of a name that is imported for type checkers only
        hints = get_type_hints(kind.__init__)
    found = {}
    for name, parameter in parameters_of(kind).items():
        allowed = list(_allowed(hints.get(name, type(parameter.default))))
        allowed.sort(key=lambda each: bool(each is str))  # last, as it takes any text
        if set(allowed) - {NoneType}:
            found[name] = Option(name, parameter.default, tuple(allowed))
    return found


def parameters_of(kind: type[Explainer]) -> dict[str, inspect.Parameter]:
    """Return the named arguments of a method's constructor after the model."""
    _, *rest = inspect.signature(kind).parameters.values()
    return {each.name: each for each in rest if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}


def _allowed(hint: Any) -> Iterator[Any]:
    """Yield the types that text can give, and single values, of an annotation."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            yield from _allowed(each)
    elif hint in READERS:
        yield hint


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError
    return number


READERS: dict[Any, Callable[[str], Any]] = {
    NoneType: lambda text: {"none": None}[text.lower()],
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    int: int,
    float: _finite,
    str: str,
}
WORDS = {NoneType: "none", bool: "true or false", int: "int", float: "number", str: "text"}


def _typed(value: Any) -> str:
    """Describe a type, or write a value as it is typed."""
    if isinstance(value, type):
        return WORDS[value]
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
