"""A model in evaluation mode whose attention can be read, without a change to the model itself.

The modules are copied, and share their parameters and buffers with the originals. So mode, flags and hooks of the copy
are independent of what other threads do with the model.
"""

import copy
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.readable import changed_flags, is_compiled
from vit_interactions.attention.references import (
    PLAIN,
    ReferenceCopier,
    UncopyableReferenceError,
    find_holders,
    is_atom,
)

ADVICE = (
    "Call `model.eval()`, and use a method other than LeGrad, Beyond Intuition and the CAMs, which hook modules."
)
# The `train` and `eval` of these packages write to no parameter.
_TRUSTED = ("torch", "timm", "transformers", "peft")
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_PLAIN_METHODS = (nn.Module.train, nn.Module.eval)
_TENSORS = ("_parameters", "_buffers")
_originals: weakref.WeakKeyDictionary[nn.Module, dict[int, nn.Module]] = weakref.WeakKeyDictionary()


class _Inside(nn.Module):
    """A module that runs the single child of a wrapper for compilation or parallelization."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return next(self.children())(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(next(self.children()), name)


def originals(model: nn.Module) -> dict[int, nn.Module]:
    """Return the original modules of an evaluation copy, by `id`; none for any other model."""
    return _originals.get(model, {})


def evaluated(model: nn.Module) -> nn.Module:
    """Return the model itself if it is in evaluation mode, readable and differentiable, or an evaluation copy.

    Example:
        >>> model = nn.Dropout()
        >>> evaluated(model).training, model.training, evaluated(model.eval()) is model
        (False, True, True)
    """
    if originals(model):
        return model
    ready = not any(
        module.training or is_compiled(module) or next(changed_flags(module), None) for module in model.modules()
    ) and not any(tensor.is_inference() for tensor in chain(model.parameters(), model.buffers()))
    return model if ready else evaluation_copy(model)


@torch.inference_mode(False)
def evaluation_copy(model: nn.Module) -> nn.Module:
    """Copy the modules of a model, in evaluation mode, with flags under which its attention can be read.

    Parameters and buffers are shared, with two exceptions that are copied: those of modules whose own `train` or `eval`
    may write to them (LoRA layers that merge weights), and those created in inference mode, which no graph can contain.
    Compiled parts run eagerly.

    Args:
        model: any module; it is not changed.

    Returns:
        A module of the same class, names and hooks. Lists, methods and closures that refer to modules refer to the
        copies.

    Raises:
        UnsupportedModelError: a module that cannot be copied.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> copied = evaluation_copy(model)
        >>> copied[1].training, model[1].training, copied[0].weight is model[0].weight
        (False, True, True)
    """
    modules = {id(module): module for module in model.modules()}
    _check(modules.values())
    copies: dict[int, Any] = {key: object.__new__(_kind(module)) for key, module in modules.items()}
    evaluates = any(module.training for module in modules.values())
    private = _private_tensors(modules.values(), evaluates)
    states = {key: dict(vars(module)) for key, module in modules.items()}
    try:
        values = [value for state in states.values() for value in _values(state)]
        carry = ReferenceCopier(copies, find_holders(values, modules))
        for key, state in states.items():
            vars(copies[key]).update(_state(copies[key], state, carry, private))
    except UncopyableReferenceError as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} must be copied before it is explained, but its modules are referenced by "
            f"{error}, which cannot be copied. {ADVICE}"
        ) from error
    copied: nn.Module = copies[id(model)]
    parts = [copies[key] for key in modules]
    if evaluates and any(map(_own_methods, parts)):
        copied.eval()
    elif evaluates:
        for module in parts:
            vars(module)["training"] = False
    for module in parts:
        for flag, wanted in list(changed_flags(module)):
            setattr(module, flag, wanted)
    _originals[copied] = modules
    return copied


def _check(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if isinstance(module, torch.jit.ScriptModule) or kinds & {"FullyShardedDataParallel", "FSDPModule"}:
            raise UnsupportedModelError(
                f"a {type(module).__name__} must be copied before it is explained, but cannot be copied. Pass the "
                "plain model in evaluation mode."
            )


def _kind(module: nn.Module) -> type[nn.Module]:
    wraps = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return _Inside if wraps or "_orig_mod" in module._modules else type(module)


def _values(state: dict[str, Any]) -> Iterator[Any]:
    """Yield the values of a module's attributes and hooks, except parameters, buffers and submodules."""
    for name, value in state.items():
        is_own = name in (*_TENSORS, "_modules") or (name in MODULE_ATTRIBUTES and not value)
        if not is_own and not is_atom(value):
            yield value


def _state(
    copied: nn.Module, state: dict[str, Any], carry: ReferenceCopier, private: dict[int, Tensor]
) -> dict[str, Any]:
    """Make the attributes of a copied module."""
    new: dict[str, Any] = {}
    for name, value in state.items():
        if name in _TENSORS:
            new[name] = {key: private.get(id(tensor), tensor) for key, tensor in value.items()}
        elif name in MODULE_ATTRIBUTES and not value and type(value) in PLAIN:
            new[name] = type(value)()  # no hooks
        elif isinstance(value, Tensor):
            new[name] = private.get(id(value), value)
        elif type(value) in PLAIN and id(value) not in carry.copies:
            # The copy must not write to lists and caches of the original.
            new[name] = carry.copied(value)
        elif name != "_compiled_call_impl":
            new[name] = value if is_atom(value) else carry(value)
    if isinstance(copied, _Inside):
        return {**vars(nn.Module()), **{name: part for name, part in new.items() if name in MODULE_ATTRIBUTES}}
    return new


def _private_tensors(modules: Iterable[nn.Module], evaluates: bool) -> dict[int, Tensor]:
    """Copy the tensors that a graph or the switch to evaluation mode may not share, by the `id` of the original."""
    tensors: dict[int, Tensor] = {}
    for module in modules:
        writes = evaluates and not all(package in _TRUSTED for package in _own_methods(module))
        for part in module.modules() if writes else [module]:
            plain = (value for value in vars(part).values() if isinstance(value, Tensor))
            for tensor in (*part._parameters.values(), *part._buffers.values(), *plain):
                if tensor is not None and id(tensor) not in tensors and (writes or tensor.is_inference()):
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensors[id(tensor)] = copy.deepcopy(tensor) if is_parameter else tensor.detach().clone()
    return tensors


def _own_methods(module: nn.Module) -> list[str]:
    """Return the packages that define a module's own `train` and `eval`, "" for those of an instance."""
    kind = type(module)
    own = (kind.train, kind.eval) if (kind.train, kind.eval) != _PLAIN_METHODS else ()
    packages = [method.__module__.split(".")[0] for method in own if method not in _PLAIN_METHODS]
    return packages + ["" for name in ("train", "eval") if name in vars(module)]
