"""See what modules of a model are given, for the time of one forward pass."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import nn


class ModuleInput(NamedTuple):
    """The arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@contextlib.contextmanager
def module_inputs(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, list[ModuleInput]]]:
    """Note every call of some modules inside the `with` block; no hook stays behind, also after an exception.

    Args:
        modules: modules of a model; what hooks of the user's make of the input is what is noted.

    Yields:
        The calls of each module, in order; a module that was not called has none.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> with module_inputs([model[1]]) as seen:
        ...     _ = model(torch.tensor([-1.0]))
        >>> seen[model[1]], len(model[1]._forward_pre_hooks)
        ([ModuleInput(args=(tensor([-1.]),), kwargs={})], 0)
    """
    seen: dict[nn.Module, list[ModuleInput]] = {module: [] for module in modules}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[module].append(ModuleInput(args, kwargs))

    with contextlib.ExitStack() as stack:
        for module in seen:
            handle = module.register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        yield seen
