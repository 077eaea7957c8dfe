"""Bring a model into the state in which its attention can be read, and back."""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError

# Recomputation in the backward pass would run outside the record.
_FLAGS = (("fused_attn", True), ("grad_checkpointing", False), ("gradient_checkpointing", False))
_MISSING = object()


def changed_flags(module: nn.Module) -> Iterator[tuple[str, bool]]:
    """Yield the flags of one module that have to change, and the values that they need."""
    for flag, wanted in _FLAGS:
        # Not by `getattr`: that of a module is slow where there is no such attribute.
        value = vars(module).get(flag, _MISSING)
        if (getattr(type(module), flag, None) if value is _MISSING else value) is (not wanted):
            yield flag, wanted


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is the wrapper of torch.compile, or was compiled in place."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


class _SharedChanges:
    """A change shared by several threads: the first one makes it, the last one restores it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.flags: dict[tuple[int, str], int] = {}
        self.stances = 0
        self.stance = contextlib.ExitStack()

    def take(self, module: nn.Module, flag: str, wanted: bool) -> bool:
        """Set a flag, and return whether it has to be released."""
        with self.lock:
            key = (id(module), flag)
            if key not in self.flags and (flag, wanted) not in changed_flags(module):
                return False
            self.flags[key] = self.flags.get(key, 0) + 1
            setattr(module, flag, wanted)
            return True

    def release(self, module: nn.Module, flag: str, wanted: bool) -> None:
        """Restore a flag once nobody needs it."""
        with self.lock:
            key = (id(module), flag)
            self.flags[key] -= 1
            if not self.flags[key]:
                del self.flags[key]
                setattr(module, flag, not wanted)

    @contextlib.contextmanager
    def eagerly(self) -> Iterator[None]:
        """Run what is compiled eagerly, in all threads: torch knows no other way."""
        with self.lock:
            self.stances += 1
            if self.stances == 1:
                self.stance.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            with self.lock:
                self.stances -= 1
                if not self.stances:
                    self.stance.close()


_changes = _SharedChanges()


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
    """Make the model call scaled_dot_product_attention, once a layer and eagerly; restore it afterwards."""
    check_unscripted(model)
    modules = list(model.modules())
    with contextlib.ExitStack() as stack:
        for module in modules:
            for flag, wanted in _FLAGS:
                if _changes.take(module, flag, wanted):
                    stack.callback(_changes.release, module, flag, wanted)
        if any(map(is_compiled, modules)):
            stack.enter_context(_changes.eagerly())
        yield
