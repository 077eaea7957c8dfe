"""Dataclass fields with a help text and a check of their value."""

import dataclasses
from collections.abc import Callable
from math import inf
from typing import Any

from vit_interactions.utilities.checks import check_choice
from vit_interactions.utilities.text import did_you_mean

Check = Callable[[str, Any], None]
FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def within(least: int, most: float = inf) -> Check:
    """Return a check for whole numbers in [least, most].

    Example:
        >>> within(1, 8192)("img_size", 1_000_000)
        Traceback (most recent call last):
        ValueError: `img_size` must be in [1, 8192], got 1000000.
        >>> within(1)("epochs", 0)
        Traceback (most recent call last):
        ValueError: `epochs` must be >= 1, got 0.
    """
    expected = f">= {least}" if most == inf else f"in [{least}, {most}]"

    def check(name: str, value: Any) -> None:
        if not least <= value <= most:
            raise ValueError(f"`{name}` must be {expected}, got {value}.")

    return check


def above_zero(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is > 0 and finite in float32."""
    if not 0 < value <= FLOAT32_MAX:
        raise ValueError(f"`{name}` must be finite and > 0, got {value!r}.")


def below_one(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1), got {value!r}.")


def required(name: str, value: Any) -> None:
    """Raise ValueError if `value` is empty."""
    if not value:
        raise ValueError(f"`{name}` must be given.")


def known_optimizer(name: str, value: str) -> None:
    """Raise ValueError unless `value` is the name of a timm optimizer.

    Example:
        >>> known_optimizer("opt", "sdg")
        Traceback (most recent call last):
        ValueError: `opt` must be a timm optimizer, got 'sdg'. Did you mean sgd?
    """
    # It takes seconds, so the option of this check is slow.
    from timm.optim import list_optimizers

    known = list_optimizers()
    if value.lower().removeprefix("lookahead_") not in known:
        raise ValueError(
            f"`{name}` must be a timm optimizer, got {value!r}.{did_you_mean(value, map(str, known))}"
        )


def one_of(*choices: str) -> Check:
    """Return a check for one of several strings."""
    return lambda name, value: check_choice(name, value, choices)


def option(default: Any, help: str, check: Check | None = None, *, slow: bool = False) -> Any:
    """Declare a field by its default, its help text and a check of values other than None; `slow` checks run last."""
    return dataclasses.field(default=default, metadata={"help": help, "check": check, "slow": slow})


def check_fields(settings: Any) -> None:
    """Raise ValueError for the first field of a dataclass that fails its check."""
    for field in sorted(dataclasses.fields(settings), key=lambda field: field.metadata.get("slow", False)):
        check, value = field.metadata.get("check"), getattr(settings, field.name)
        if check is not None and value is not None:
            check(field.name, value)
