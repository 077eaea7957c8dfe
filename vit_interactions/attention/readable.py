"""Set the flags of a model under which its attention can be read, and restore them."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError

# Recomputation in the backward pass would run outside the record.
_FLAGS = (("fused_attn", True), ("grad_checkpointing", False), ("gradient_checkpointing", False))
_MISSING = object()
# Threads share changes: the first one makes a change, the last one undoes it. torch's stance is global.
_lock = threading.Lock()
_users: Counter[Any] = Counter()
_eager = contextlib.ExitStack()


def changed_flags(module: nn.Module) -> Iterator[tuple[str, bool]]:
    """Yield the flags of one module that must change, with the values that they need."""
    for flag, wanted in _FLAGS:
        # Not by `getattr`, which is slow on a module without the attribute.
        value = vars(module).get(flag, _MISSING)
        if (getattr(type(module), flag, None) if value is _MISSING else value) is (not wanted):
            yield flag, wanted


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is the wrapper of torch.compile, or was compiled in place."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def check_unscripted(model: nn.Module) -> None:
    """Raise UnsupportedModelError for a model with scripted parts."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"{f'`{name}`' if name else type(model).__name__} is a scripted model, which runs where its "
                "attention cannot be seen. Give the model it was scripted from."
            )


@contextlib.contextmanager
def readable(model: nn.Module) -> Iterator[None]:
    """Make the model call scaled_dot_product_attention, once per layer and eagerly, for the duration of the block."""
    check_unscripted(model)
    modules = list(model.modules())
    with contextlib.ExitStack() as stack:
        with _lock:
            for module in modules:
                for flag, wanted in _FLAGS:
                    if _users[id(module), flag] or (flag, wanted) in changed_flags(module):
                        setattr(module, flag, wanted)
                        _users[id(module), flag] += 1
                        stack.callback(_release, (id(module), flag), partial(setattr, module, flag, not wanted))
            if any(map(is_compiled, modules)):
                if not _users["eager"]:
                    _eager.enter_context(torch.compiler.set_stance("force_eager"))
                _users["eager"] += 1
                stack.callback(_release, "eager", _eager.close)
        yield


def _release(change: Any, undo: Callable[[], None]) -> None:
    """Undo a change after its last user."""
    with _lock:
        _users[change] -= 1
        if not _users[change]:
            del _users[change]
            undo()
