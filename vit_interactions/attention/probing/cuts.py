"""Find where a model leaves the graph: a detach, `torch.no_grad`, `.data`, or a number taken out of a tensor."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from vit_interactions.attention.frames import running_frames
from vit_interactions.attention.graph import Node, noise
from vit_interactions.attention.random_draws import draws_random_numbers

STEP = 0.1  # relative change of the arguments of a function whose result leaves the graph


class CutWatch:
    """A runner of torch functions that records those whose results leave the graph.

    Attributes:
        found: for each of them, the running module and the node of one of its arguments.
        choices: the indices and masks that were computed, in order.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        module: Callable[[], tuple[str, Any] | None],
        before: "CutWatch | None" = None,
        disturbed: Collection[int] = (),
    ) -> None:
        """Create the runner.

        Args:
            run: calls a function, given with its args and kwargs.
            module: returns the running (name, module); None while another model runs.
            before: the watch of an earlier pass, whose indices and masks are reused: they have no derivative.
            disturbed: indices into `found` of functions whose arguments are changed.
        """
        self.found: list[tuple[str, Node]] = []
        self.choices: list[Tensor] = []
        self._run, self._module, self._disturbed = run, module, disturbed
        self._chosen = iter(before.choices if before else ())

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return func(*args, **kwargs)."""
        node = next((tensor.grad_fn for tensor in _tensors((args, kwargs)) if tensor.grad_fn), None)
        result = self._run(func, args, kwargs)
        left = node is not None and _is_outside(result) and not draws_random_numbers(func, args, kwargs)
        if left and (module := self._module()) and not _has_own_derivative():
            self.found.append((module[0], node))
            if len(self.found) - 1 in self._disturbed:
                args, kwargs = tree_map_only(Tensor, _disturb, (args, kwargs))
                result = self._run(func, args, kwargs)
        if all(tensor.is_floating_point() for tensor in _tensors(result)):
            return result
        return tree_map_only(Tensor, self._choose, result)

    def _choose(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return tensor
        self.choices.append(tensor)
        chosen = next(self._chosen, tensor)
        return chosen if (chosen.shape, chosen.dtype) == (tensor.shape, tensor.dtype) else tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _is_outside(result: Any) -> bool:
    """Check whether a result has real numbers, none of them in the graph."""
    numbers = [tensor.requires_grad for tensor in _tensors(result) if tensor.is_floating_point()]
    return isinstance(result, float) or (bool(numbers) and not any(numbers))


def _has_own_derivative() -> bool:
    """Check whether a `torch.autograd.Function` is running, whose backward pass is its own."""
    functions: list[Any] = [torch.autograd.Function]
    for function in functions:
        functions += function.__subclasses__()
    forwards = {getattr(function.forward, "__code__", None) for function in functions}
    return any(frame.f_code in forwards for frame in running_frames())


def _disturb(tensor: Tensor) -> Tensor:
    inside = tensor.grad_fn is not None and tensor.is_floating_point()
    return tensor * (1 + STEP * noise(tensor)) if inside else tensor
