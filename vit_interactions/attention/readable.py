"""Bring a model into the state in which its attention can be read, and back."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError


@contextlib.contextmanager
def readable(model: nn.Module) -> Iterator[None]:
    """Make the model call scaled_dot_product_attention, once a layer and eagerly; restore it afterwards."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"{f'`{name}`' if name else type(model).__name__} is a scripted model, which runs where its "
                "attention cannot be seen. Give the model it was scripted from."
            )
    changed: list[tuple[nn.Module, str, bool]] = []
    compiled = False
    try:
        for module in model.modules():
            # Recomputation in the backward pass would run outside the record.
            for flag, wanted in (
                ("fused_attn", True),
                ("grad_checkpointing", False),
                ("gradient_checkpointing", False),
            ):
                if getattr(module, flag, None) is (not wanted):
                    changed.append((module, flag, not wanted))
                    setattr(module, flag, wanted)
            compiled |= hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        for module, flag, value in changed:
            setattr(module, flag, value)
