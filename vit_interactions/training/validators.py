"""Fields of settings that say of themselves what they mean and what they may be."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import list_optimizers

from vit_interactions.loading.models import nearest
from vit_interactions.utilities.checks import check_choice

Check = Callable[[str, Any], None]


def at_least(least: int) -> Check:
    """Make a check for whole numbers from `least` on.

    Example:
        >>> at_least(1)("epochs", 0)
        Traceback (most recent call last):
        ValueError: `epochs` must be at least 1, but got 0.
    """

    def check(name: str, value: Any) -> None:
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, but got {value}.")

    return check


def within(least: int, most: int) -> Check:
    """Make a check for whole numbers from `least` to `most`.

    Example:
        >>> within(1, 8192)("img_size", 1_000_000)
        Traceback (most recent call last):
        ValueError: `img_size` must lie in [1, 8192], got 1000000.
    """

    def check(name: str, value: Any) -> None:
        if not least <= value <= most:
            raise ValueError(f"`{name}` must lie in [{least}, {most}], got {value}.")

    return check


def above_zero(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is > 0 and finite in float32."""
    if not 0 < value <= torch.finfo(torch.float32).max:
        raise ValueError(f"`{name}` must be finite and > 0, but got {value!r}.")


def below_one(name: str, value: Any) -> None:
    """Raise ValueError unless 0 ≤ `value` < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must lie in [0, 1), but got {value!r}.")


def named(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is given."""
    if not value:
        raise ValueError(f"`{name}` must be given.")


def known_optimizer(name: str, value: str) -> None:
    """Raise ValueError unless timm has an optimizer of this name.

    Example:
        >>> known_optimizer("opt", "sdg")
        Traceback (most recent call last):
        ValueError: `opt` must be an optimizer of timm, got 'sdg'. Did you mean sgd?
    """
    known = list_optimizers()
    if value.lower().removeprefix("lookahead_") not in known:
        raise ValueError(f"`{name}` must be an optimizer of timm, got {value!r}.{nearest(value, map(str, known))}")


def one_of(*choices: str) -> Check:
    """Make a check for one of some words."""
    return lambda name, value: check_choice(name, value, choices)


def option(default: Any, help: str, check: Check | None = None) -> Any:
    """Declare a field: its default, what it means, and what it may be if it is not None."""
    return dataclasses.field(default=default, metadata={"help": help, "check": check})


def check_fields(settings: Any) -> None:
    """Raise ValueError, naming it, for the first field of a dataclass whose value is not what it may be."""
    for field in dataclasses.fields(settings):
        check, value = field.metadata.get("check"), getattr(settings, field.name)
        if check is not None and value is not None:
            check(field.name, value)
