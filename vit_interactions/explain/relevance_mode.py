"""Run an unchanged model with other derivatives: rules of relevance propagation instead of gradients.

A `TorchFunctionMode` sees every operation on what was computed from the image. An operation either keeps its
derivative, gets another one, or is refused: none is passed over without a decision.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, once_differentiable
from torch.overrides import TorchFunctionMode, resolve_name

from vit_interactions.attention.derivatives import quantized_module, refuse_cut
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.graph import ancestors
from vit_interactions.functional.attention import without_autocast

# Operations that move, copy, select or convert numbers: what comes back is moved back, what was copied is added.
_REARRANGEMENTS = """
    H T __getitem__ __iter__ __setitem__ adjoint bfloat16 cat chunk clone concat concatenate contiguous detach double
    dropout dropout1d dropout2d expand expand_as flatten flip float gather half hsplit index_select mH mT movedim
    moveaxis narrow pad permute positive repeat repeat_interleave reshape reshape_as roll select split
    split_with_sizes squeeze stack swapaxes swapdims t take_along_dim tensor_split tile to transpose type type_as
    unbind unflatten unsqueeze view view_as vsplit
"""
# Functions of one number with f(0) = 0.
_ACTIVATIONS = "celu elu gelu hardswish leaky_relu mish relu relu6 selu silu softsign tanh tanhshrink"
REARRANGEMENTS, ACTIVATIONS = frozenset(_REARRANGEMENTS.split()), frozenset(_ACTIVATIONS.split())

Rule = Callable[..., Any]


class Ruled(torch.autograd.Function):
    """An operation with the derivative of your choice.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> y = Ruled.apply(torch.square, lambda gradient, x: (gradient * 10.0,), x)
        >>> y.item(), torch.autograd.grad(y, x)[0].item()
        (9.0, 10.0)
    """

    @staticmethod
    def forward(ctx: Any, value: Rule, rule: Rule, *tensors: Tensor) -> Any:
        """Compute value(*tensors) and keep rule(gradient, *tensors) -> gradients for the way back."""
        ctx.rule = rule
        ctx.save_for_backward(*tensors)
        result = value(*tensors)
        # Autograd forbids models to write to a view that a function of one's own returns.
        return result.clone() if isinstance(result, Tensor) and result._is_view() else result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Apply the rule, outside the user's autocast."""
        with without_autocast(gradient):
            return None, None, *ctx.rule(gradient, *ctx.saved_tensors)


def ruled(value: Rule, rule: Rule, *tensors: Tensor) -> Any:
    """Compute value(*tensors), whose derivative is rule(gradient, *tensors): one gradient a tensor."""
    return Ruled.apply(value, rule, *tensors)


def scaled_gradient(tensor: Tensor, factor: float) -> Tensor:
    """Return the same values, with their gradient multiplied by a factor.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> torch.autograd.grad(scaled_gradient(x, 0.25), x)[0].item()
        0.25
    """
    scaled: Tensor = ruled(lambda x: x.view_as(x), lambda gradient, _: (gradient * factor,), tensor)
    return scaled


def depends(value: Any) -> bool:
    """Whether a value, or any in a list, tuple or dict, was computed from the image, as its graph tells."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        return any(map(depends, value.values()))
    return isinstance(value, (list, tuple)) and any(map(depends, value))


class Rules(TorchFunctionMode):
    """The rules of one method, in force while a model runs inside the `with` block.

    A subclass has a method `on_NAME(function, *arguments)` for each operation torch calls NAME that gets a rule.
    Parameters are constants, so that whatever requires a gradient was computed from the image.

    Attributes:
        method: what messages call the method.
        kept: operations whose derivative is the rule.
    """

    method: ClassVar[str]
    kept: ClassVar[frozenset[str]] = REARRANGEMENTS

    def __init__(self, model: nn.Module) -> None:
        """Learn the names of the model's modules, for messages.

        Raises:
            UnsupportedModelError: quantized layers, or LoRA layers that are not merged.
        """
        super().__init__()
        if quantized_module(model):
            refuse_cut(model, f"{self.method} cannot follow the relevance")
        if apart := unmerged_adapter(model):
            raise UnsupportedModelError(
                f"`{apart}` adds a LoRA adapter that is not merged, and rules for its products one by one are not "
                f"the rule of their sum, so the relevance of {self.method} would be another model's. Merge the LoRA "
                "weights first (`model = model.merge_and_unload()`)."
            )
        self._modules = {id(module): (name, module) for name, module in model.named_modules()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = mapped(_without_parameter, args), mapped(_without_parameter, kwargs or {})
        if not (depends(args) or depends(kwargs)):
            return func(*args, **kwargs)
        return self.compute(operation_name(func), func, args, kwargs)

    def compute(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an operation on what depends on the image, with its rule.

        Raises:
            UnsupportedModelError: there is none.
        """
        if name in ACTIVATIONS or name.removesuffix("_") in ACTIVATIONS:
            return self._activation(func, name, *args, **kwargs)
        rule = getattr(self, f"on_{name}", None)
        if rule is not None:
            return rule(func, *args, **kwargs)
        result = func(*args, **kwargs)
        if name not in self.kept and depends(result):
            self.refuse(f"computes `{name}` from the image")
        return result

    def activation(self, value: Rule, x: Tensor) -> Tensor:
        """Compute value(x), a function of one number with value(0) = 0, with its rule."""
        raise NotImplementedError

    def _activation(
        self, func: Any, name: str, x: Tensor, *args: Any, inplace: bool = False, **kwargs: Any
    ) -> Any:
        overwrites = name.endswith("_")

        def value(x: Tensor) -> Tensor:
            result: Tensor = func(x.clone() if overwrites else x, *args, **kwargs)
            return result

        if not (inplace or overwrites):
            return self.activation(value, x)
        # The rule wants x as it was, the model wants it overwritten.
        return x.copy_(self.activation(value, x.clone()))

    def refuse(self, what: str) -> NoReturn:
        """Raise UnsupportedModelError that the module now running does something there is no rule for."""
        name, _ = self.caller()
        raise UnsupportedModelError(
            f"{name} {what}, for which {self.method} has no rule, so the relevance could "
            "not be followed. Use a ViT of plain linear layers, normalisation, activations and attention, or a "
            "method that takes gradients as they are, such as GenericAttention."
        )

    def caller(self) -> tuple[str, nn.Module | None]:
        """Find the module that is running, the innermost frame whose `self` is one, and name it."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            found = self._modules.get(id(frame.f_locals.get("self")))
            if found is not None:
                name, module = found
                return f"`{name}` ({type(module).__name__})" if name else type(module).__name__, module
            frame = frame.f_back
        return "the model", None

    def check_graph(self, scores: Tensor) -> None:
        """Raise unless the scores come from the image by operations that could be seen.

        Raises:
            UnsupportedModelError: a `torch.autograd.Function` of the model's own, which no mode can see, or scores
                that do not depend on the image.
        """
        if scores.grad_fn is None:
            raise UnsupportedModelError(
                f"the score does not depend on the image by any way that {self.method} can follow: the model "
                "detaches its features, or passes them through a gate only."
            )
        for node in ancestors([scores.grad_fn], {}):
            if isinstance(node, BackwardCFunction) and type(node).__name__ != f"{Ruled.__name__}Backward":
                raise UnsupportedModelError(
                    f"the model computes `{type(node).__name__.removesuffix('Backward')}`, a "
                    f"`torch.autograd.Function` with its own derivative, which {self.method} cannot replace. Use "
                    "the same operation written in plain torch functions."
                )


def operation_name(func: Any) -> str:
    """Return what torch calls an operation, the same for functions, methods and properties.

    Example:
        >>> operation_name(torch.nn.functional.gelu), operation_name(torch.Tensor.relu_)
        ('gelu', 'relu_')
        >>> operation_name(torch.Tensor.mT.__get__)
        'mT'
    """
    name: str = resolve_name(func) or getattr(func, "__name__", repr(func))
    parts = name.split(".")
    return parts[-2] if parts[-1] == "__get__" else parts[-1]


def unmerged_adapter(model: nn.Module) -> str | None:
    """Return the name of the first layer, of peft or loralib, whose active adapter is not merged, or None.

    Example:
        >>> unmerged_adapter(nn.Linear(1, 1)) is None
        True
    """
    name: str
    for name, module in model.named_modules():
        # By their names: none of these libraries is needed here.
        adapts = any(base.__name__ in ("BaseTunerLayer", "LoRALayer") for base in type(module).__mro__)
        if adapts and not (getattr(module, "merged", False) or getattr(module, "disable_adapters", False)):
            return name
    return None


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to an argument, or to all that the lists, tuples and dicts of arguments hold.

    Example:
        >>> mapped(lambda value: value + 1, (1, [2, {"key": 3}]))
        (2, [3, {'key': 4}])
    """
    if type(value) is dict:
        return {key: mapped(function, part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mapped(function, part) for part in value)
    return function(value)


def _without_parameter(value: Any) -> Any:
    return value.detach() if isinstance(value, nn.Parameter) else value
