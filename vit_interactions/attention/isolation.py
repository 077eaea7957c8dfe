"""Run a model in evaluation mode without any effect on its other users and on other threads."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import ADVICE, evaluated, originals
from vit_interactions.attention.frames import running_objects
from vit_interactions.attention.random_draws import PrivateGenerators, draws_random_numbers


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model to run in evaluation mode: the model itself if it is ready for that, or a copy of its modules.

    Parameters and buffers are shared, so a copy costs no memory. The model draws the same random numbers as it would
    otherwise, but the global generators do not advance.

    Args:
        model: an unwrapped model; it is not changed.

    Yields:
        The module to run.

    Raises:
        UnsupportedModelError: a model that must be copied but cannot be; inside the block, a copy that runs one of
            the original modules.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluation_mode(model) as running:
        ...     running.training, model.training
        (False, True)
    """
    own = evaluated(model)
    with Isolation(own):
        yield own


class Isolation(TorchFunctionMode):
    """A mode that leaves the global random generators alone and never runs a module of the original model."""

    def __init__(self, model: nn.Module, seed: int | None = None) -> None:
        """Create the mode for a model from `evaluated` or `evaluation_copy`; `seed` is for its random numbers."""
        super().__init__()
        self._model, self._seed = model, seed
        self._generators: PrivateGenerators | None = None
        self._foreign = dict.fromkeys(map(id, model.modules()), False) if originals(model) else {}
        self._foreign.update(dict.fromkeys(originals(model), True))

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return func(*args, **kwargs); raise UnsupportedModelError if a module of the original model is running."""
        if self._foreign:
            self._check()
        if not draws_random_numbers(func, args, kwargs):
            result = func(*args, **kwargs)
            if func is F.batch_norm and result.requires_grad:
                # The CPU's backward pass misreads the gradient of one image that is laid out in another order.
                result.register_hook(Tensor.contiguous)
            return result
        if self._generators is None:
            devices = {parameter.device for parameter in self._model.parameters()}
            self._generators = PrivateGenerators(devices, self._seed)
        return self._generators.run(lambda: func(*args, **kwargs))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self(func, args, kwargs or {})

    @property
    def drew(self) -> bool:
        """Return whether the model has drawn random numbers."""
        return self._generators is not None

    def _check(self) -> None:
        """Raise if the innermost module that runs is one of the original model."""
        for owner in running_objects():
            foreign = self._foreign.get(id(owner))
            if foreign:
                raise UnsupportedModelError(
                    f"a {type(owner).__name__} of the original model ran instead of its copy in evaluation mode: "
                    f"something outside the model refers to it. {ADVICE}"
                )
            if foreign is not None:
                return
