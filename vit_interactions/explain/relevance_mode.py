"""Run an unchanged model with rules of relevance propagation instead of its gradients.

A `TorchFunctionMode` sees every operation on values computed from the image. Each operation keeps its derivative, gets
another one, or raises; none goes unnoticed.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, once_differentiable
from torch.overrides import TorchFunctionMode, resolve_name

from vit_interactions.attention.derivatives import quantized_module, raise_cut
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.frames import running_objects
from vit_interactions.attention.graph import ancestors
from vit_interactions.functional.attention import without_autocast

# Operations that move, copy, select or convert values: relevance is moved back, and summed over copies.
_REARRANGEMENTS = """
    H T __getitem__ __iter__ __setitem__ adjoint bfloat16 cat chunk clone concat concatenate contiguous detach double
    dropout dropout1d dropout2d expand expand_as flatten flip float gather half hsplit index_copy index_select mH mT
    movedim moveaxis narrow pad permute positive repeat repeat_interleave reshape reshape_as roll select split
    split_with_sizes squeeze stack swapaxes swapdims t take_along_dim tensor_split tile to transpose type type_as
    unbind unflatten unsqueeze view view_as vsplit
"""
# Elementwise functions with f(0) = 0.
_ACTIVATIONS = "celu elu gelu hardswish leaky_relu mish relu relu6 selu silu softsign tanh tanhshrink"
REARRANGEMENTS, ACTIVATIONS = frozenset(_REARRANGEMENTS.split()), frozenset(_ACTIVATIONS.split())

Rule = Callable[..., Any]


class CustomDerivative(torch.autograd.Function):
    """An operation with a custom derivative.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> y = CustomDerivative.apply(torch.square, lambda gradient, x: (gradient * 10.0,), x)
        >>> y.item(), torch.autograd.grad(y, x)[0].item()
        (9.0, 10.0)
    """

    @staticmethod
    def forward(ctx: Any, value: Rule, rule: Rule, *tensors: Tensor) -> Any:
        """Compute value(*tensors), and save rule(gradient, *tensors) -> gradients for the backward pass."""
        ctx.rule = rule
        ctx.save_for_backward(*tensors)
        result = value(*tensors)
        # Autograd does not let a model write to a view that a custom function returned.
        return result.clone() if isinstance(result, Tensor) and result._is_view() else result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Apply the rule, outside the user's autocast."""
        with without_autocast(gradient):
            return None, None, *ctx.rule(gradient, *ctx.saved_tensors)


def with_derivative(value: Rule, rule: Rule, *tensors: Tensor) -> Any:
    """Compute value(*tensors), with the derivative rule(gradient, *tensors): one gradient per tensor."""
    return CustomDerivative.apply(value, rule, *tensors)


def with_derivative_of_output(value: Rule, rule: Rule, *tensors: Tensor) -> Any:
    """Compute value(*tensors), with the derivative rule(gradient, output, *tensors): one gradient per tensor.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> y = with_derivative_of_output(torch.exp, lambda gradient, output, x: (gradient * output,), x)
        >>> torch.equal(torch.autograd.grad(y, x)[0], x.exp())
        True
    """
    kept: list[tuple[Tensor, int]] = []

    def compute(*tensors: Tensor) -> Tensor:
        output: Tensor = value(*tensors)
        # Not `save_for_backward`, which raises if the model overwrites the output.
        kept[:] = [(output.detach(), output._version)]
        return output

    def apply(gradient: Tensor, *tensors: Tensor) -> Any:
        output, version = kept[0]
        return rule(gradient, output if output._version == version else value(*tensors), *tensors)

    return with_derivative(compute, apply, *tensors)


def scaled_gradient(tensor: Tensor, factor: float) -> Tensor:
    """Return the same values, with their gradient multiplied by a factor.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> torch.autograd.grad(scaled_gradient(x, 0.25), x)[0].item()
        0.25
    """
    scaled: Tensor = with_derivative(lambda x: x.view_as(x), lambda gradient, _: (gradient * factor,), tensor)
    return scaled


def depends_on_image(value: Any) -> bool:
    """Check whether a value, or any value in a list, tuple or dict, was computed from the image."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        return any(map(depends_on_image, value.values()))
    return isinstance(value, (list, tuple)) and any(map(depends_on_image, value))


class RelevanceMode(TorchFunctionMode):
    """The rules of one method, active while a model runs inside the `with` block.

    A subclass defines a method `on_NAME(function, *arguments)` per torch operation NAME with a rule. Parameters are
    constants, so that whatever requires a gradient was computed from the image.

    Attributes:
        method: name of the method in messages.
        kept: operations that keep their derivative.
    """

    method: ClassVar[str]
    kept: ClassVar[frozenset[str]] = REARRANGEMENTS

    def __init__(self, model: nn.Module) -> None:
        """Create the mode for a model; its modules are named in messages.

        Raises:
            UnsupportedModelError: quantized layers, or LoRA layers that are not merged.
        """
        super().__init__()
        if quantized_module(model):
            raise_cut(model, f"{self.method} cannot follow the relevance")
        if apart := unmerged_adapter(model):
            raise UnsupportedModelError(
                f"`{apart}` adds a LoRA adapter that is not merged. Rules for its products are not the rule for "
                f"their sum, so {self.method} would return the relevance of another model. Merge the LoRA "
                "weights first (`model = model.merge_and_unload()`)."
            )
        self._modules = {id(module): (name, module) for name, module in model.named_modules()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = map_nested(_without_parameter, args), map_nested(_without_parameter, kwargs or {})
        if not (depends_on_image(args) or depends_on_image(kwargs)):
            return func(*args, **kwargs)
        return self.compute(operation_name(func), func, args, kwargs)

    def compute(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an operation on values that depend on the image, with its rule.

        Raises:
            UnsupportedModelError: an operation without a rule.
        """
        if name in ACTIVATIONS or name.removesuffix("_") in ACTIVATIONS:
            return self._activation(func, name, *args, **kwargs)
        rule = getattr(self, f"on_{name}", None)
        if rule is not None:
            return rule(func, *args, **kwargs)
        result = func(*args, **kwargs)
        if name not in self.kept and depends_on_image(result):
            self.raise_unsupported(f"computes `{name}` from the image")
        return result

    def activation(self, value: Rule, x: Tensor) -> Tensor:
        """Compute value(x), elementwise with value(0) = 0, with its rule."""
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
        # The rule needs the old x; the model expects it overwritten.
        return x.copy_(self.activation(value, x.clone()))

    def raise_unsupported(self, what: str) -> NoReturn:
        """Raise UnsupportedModelError: the running module does something without a rule."""
        name, _ = self.caller()
        raise UnsupportedModelError(
            f"{name} {what}, for which {self.method} has no rule, so relevance cannot "
            "be propagated. Use a ViT of plain linear layers, normalization, activations and attention, or a "
            "method that uses plain gradients, such as GenericAttention."
        )

    def caller(self) -> tuple[str, nn.Module | None]:
        """Find the running module (the `self` of the innermost frame that has one), and its name."""
        running = (self._modules.get(id(each)) for each in running_objects())
        name, module = next(filter(None, running), ("the model", None))
        if module is None:
            return name, None
        return f"`{name}` ({type(module).__name__})" if name else type(module).__name__, module

    def check_graph(self, scores: Tensor) -> None:
        """Raise unless the scores depend on the image through operations with rules.

        Raises:
            UnsupportedModelError: the model's own `torch.autograd.Function`, which no mode can see, or scores
                that do not depend on the image.
        """
        if scores.grad_fn is None:
            raise UnsupportedModelError(
                f"the score does not depend on the image in any way that {self.method} can follow: the model "
                "detaches its features, or uses them only in a gate."
            )
        for node in ancestors([scores.grad_fn], {}):
            if (
                isinstance(node, BackwardCFunction)
                and type(node).__name__ != f"{CustomDerivative.__name__}Backward"
            ):
                raise UnsupportedModelError(
                    f"the model computes `{type(node).__name__.removesuffix('Backward')}`, a "
                    f"`torch.autograd.Function` with its own derivative, which {self.method} cannot replace. Use "
                    "the same operation written in plain torch functions."
                )


def operation_name(func: Any) -> str:
    """Return torch's name of an operation, the same for functions, methods and properties.

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
    """Return the name of the first peft or loralib layer whose active adapter is not merged, or None.

    Example:
        >>> unmerged_adapter(nn.Linear(1, 1)) is None
        True
    """
    name: str
    for name, module in model.named_modules():
        # Recognized by name, so that neither library is required.
        adapts = any(base.__name__ in ("BaseTunerLayer", "LoRALayer") for base in type(module).__mro__)
        if adapts and not (getattr(module, "merged", False) or getattr(module, "disable_adapters", False)):
            return name
    return None


def map_nested(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to an argument, or to every element of nested lists, tuples and dicts.

    Example:
        >>> map_nested(lambda value: value + 1, (1, [2, {"key": 3}]))
        (2, [3, {'key': 4}])
    """
    if type(value) is dict:
        return {key: map_nested(function, part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_nested(function, part) for part in value)
    return function(value)


def _without_parameter(value: Any) -> Any:
    return value.detach() if isinstance(value, nn.Parameter) else value
