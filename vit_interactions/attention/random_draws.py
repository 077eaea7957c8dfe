"""Let a model draw random numbers without advancing the global generators."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_DRAWING = threading.RLock()
# Functions and methods of torch that always draw from a global generator.
_NAMES = """
    bernoulli bernoulli_ binomial cauchy_ exponential_ feature_dropout feature_dropout_ geometric_ gumbel_softmax
    fractional_max_pool2d fractional_max_pool3d log_normal_ multinomial normal normal_ poisson rand rand_like randint
    randint_like randn randn_like random_ randperm uniform_
"""
ALWAYS = frozenset(
    getattr(owner, name) for owner in (torch, Tensor, F) for name in _NAMES.split() if hasattr(owner, name)
)
# Those that draw depending on an argument: its name, its position and its default.
DRAWS_IF: dict[Any, tuple[str, int, Any]] = {
    F.scaled_dot_product_attention: ("dropout_p", 4, 0.0),
    F.multi_head_attention_forward: ("training", 13, True),
    F.rrelu: ("training", 3, False),
    torch.rrelu: ("training", 3, False),
    torch.rrelu_: ("training", 3, False),
    **{
        getattr(owner, name): ("training" if owner is F else "train", 2, True)
        for owner in (F, torch)
        for name in (
            *("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "alpha_dropout_"),
            *("feature_alpha_dropout", "feature_alpha_dropout_", "native_dropout"),
        )
        if hasattr(owner, name)
    },
}


def draws_random_numbers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a function of torch draws random numbers from a global generator.

    Example:
        >>> draws_random_numbers(torch.rand, (3,), {}), draws_random_numbers(torch.sin, (), {})
        (True, False)
        >>> draws_random_numbers(F.dropout, (torch.ones(1), 0.5, False), {})
        False
    """
    if func in DRAWS_IF:
        name, position, default = DRAWS_IF[func]
        return bool(kwargs.get(name, args[position] if len(args) > position else default))
    if isinstance(func, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in func.tags
    return func in ALWAYS and kwargs.get("generator") is None


class PrivateGenerators:
    """Generators that continue from the state of the global ones at the first draw, without advancing those.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> private = PrivateGenerators()
        >>> first, second = private.run(lambda: torch.rand(1)), private.run(lambda: torch.rand(1))
        >>> torch.equal(torch.rand(1), first), torch.equal(torch.rand(1), second)
        (True, True)
    """

    def __init__(self, devices: Iterable[torch.device] = (), seed: int | None = None) -> None:
        """Create the generators of the CPU and of CUDA devices; `seed` replaces the state of the global ones."""
        cuda = {device.index for device in devices if device.type == "cuda"}
        self._generators = [torch.default_generator, *(torch.cuda.default_generators[index] for index in cuda)]
        self._states: list[Tensor] | None = None
        if seed is not None:
            self._states = [torch.Generator(g.device).manual_seed(seed).get_state() for g in self._generators]

    def run(self, draw: Callable[[], Any]) -> Any:
        """Return the result of a function that draws."""
        with _DRAWING:  # one thread at a time, or one would restore what another has set
            before = [generator.get_state() for generator in self._generators]
            try:
                for generator, state in zip(self._generators, self._states or before, strict=True):
                    generator.set_state(state)
                return draw()
            finally:
                self._states = [generator.get_state() for generator in self._generators]
                for generator, state in zip(self._generators, before, strict=True):
                    generator.set_state(state)
