"""Record the inputs of modules during a forward pass."""

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
    """Yield the calls of each module inside the `with` block, in order, with inputs as changed by the user's hooks.

    All hooks are removed on exit, even after an exception.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> with module_inputs([model[1]]) as calls:
        ...     _ = model(torch.tensor([-1.0]))
        >>> calls[model[1]], len(model[1]._forward_pre_hooks)
        ([ModuleInput(args=(tensor([-1.]),), kwargs={})], 0)
    """
    calls: dict[nn.Module, list[ModuleInput]] = {module: [] for module in modules}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[module].append(ModuleInput(args, kwargs))

    with contextlib.ExitStack() as stack:
        for module in calls:
            stack.callback(module.register_forward_pre_hook(record, with_kwargs=True).remove)
        yield calls
