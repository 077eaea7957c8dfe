"""Run a model in evaluation mode so that nobody else notices: not its other users, not other threads."""

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.draws import PrivateGenerators, draws
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import ADVICE, evaluated, originals


@contextlib.contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model to run in evaluation mode: the model itself if it is ready for that, else a copy of its modules.

    Parameters and buffers are shared, so a copy costs no memory. Random numbers that the model draws are those that
    it would draw anyway, but the global generators stay where they are.

    Args:
        model: an unwrapped model; it is not changed.

    Yields:
        The module to run.

    Raises:
        UnsupportedModelError: a model that has to be copied and cannot be; inside the block, a copy that runs one of
            the model's own modules, reached in a way that was not seen.

    Example:
        >>> model = nn.Dropout()
        >>> with borrowed(model) as running:
        ...     running.training, model.training
        (False, True)
    """
    own = evaluated(model)
    with _Mode(Unnoticed(own)):
        yield own


class Unnoticed:
    """A context for a model's functions that keeps global generators and runs no module of the original."""

    def __init__(self, model: nn.Module, seed: int | None = None) -> None:
        """Take the model that runs, from `evaluated` or `evaluation_copy`, and a seed for what it draws, if any."""
        self._model, self._seed = model, seed
        self._generators: PrivateGenerators | None = None
        self._foreign = dict.fromkeys(map(id, model.modules()), False) if originals(model) else {}
        self._foreign.update(dict.fromkeys(originals(model), True))

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return func(*args, **kwargs).

        Raises:
            UnsupportedModelError: a module of the original model is running.
        """
        if self._foreign:
            self._check(sys._getframe(1))
        if not draws(func, args, kwargs):
            result = func(*args, **kwargs)
            if func is F.batch_norm and result.requires_grad:
                # The CPU's backward pass misreads the gradient of one image that is laid out in another order.
                result.register_hook(Tensor.contiguous)
            return result
        if self._generators is None:
            devices = {parameter.device for parameter in self._model.parameters()}
            self._generators = PrivateGenerators(devices, self._seed)
        return self._generators.run(lambda: func(*args, **kwargs))

    @property
    def drew(self) -> bool:
        """Return whether the model has drawn random numbers."""
        return self._generators is not None

    def _check(self, frame: FrameType | None) -> None:
        """Raise if the innermost module that runs is one of the original model."""
        while frame is not None:
            owner = frame.f_locals.get("self")
            foreign = self._foreign.get(id(owner))
            if foreign:
                raise UnsupportedModelError(
                    f"a {type(owner).__name__} of the model ran outside the copy in evaluation mode that is explained: "
                    f"something refers to it from outside the model. {ADVICE}"
                )
            if foreign is not None:
                return
            frame = frame.f_back


class _Mode(TorchFunctionMode):
    """A mode that passes every torch function to a callable."""

    def __init__(self, run: Unnoticed) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})
