"""Running means of the numbers of training steps."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed


class Meter:
    """Means since the last row of the log ("row") and since the start of the epoch ("epoch").

    Reading a number waits for the device, so the numbers of the steps stay on it until a mean is asked for.

    Example:
        >>> meter = Meter()
        >>> for loss in (1.0, 2.0):
        ...     meter.add({"loss": torch.tensor(loss)})
        >>> meter.take("row"), meter.mean("row"), meter.mean("epoch")
        ({'loss': 1.5}, {}, {'loss': 1.5})
    """

    def __init__(self) -> None:
        """Start without numbers."""
        self._waiting: list[Tensor] = []
        self._names: list[str] = []
        self._sums: dict[str, dict[str, float]] = {"row": {}, "epoch": {}}
        self._counts = {"row": 0.0, "epoch": 0.0}

    def add(self, numbers: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add the numbers of a batch, under the same names each time; tensors are averaged.

        `weight` is the fraction of the batch's images that could be read.
        """
        self._names = list(numbers)
        means = torch.stack([value.detach().float().mean() for value in numbers.values()])
        self._waiting.append(torch.cat([means * weight, means.new_tensor([weight])]))

    def mean(self, since: str) -> dict[str, float]:
        """Return the means since "row" or "epoch" over all processes; NaN if no image could be read.

        Raises:
            ValueError: a number that is not finite.
        """
        self._read()
        count = self._counts[since]
        return {name: total / count if count else math.nan for name, total in self._sums[since].items()}

    def take(self, since: str) -> dict[str, float]:
        """Return the means as `mean` does, and reset them."""
        means = self.mean(since)
        self._sums[since], self._counts[since] = {}, 0.0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        self._read()
        return {"sums": copy.deepcopy(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self._sums, self._counts = copy.deepcopy(state["sums"]), dict(state["counts"])

    def _read(self) -> None:
        if not self._waiting:
            return
        numbers = torch.stack(self._waiting)
        self._waiting = []
        if distributed.is_initialized():
            distributed.all_reduce(numbers)
        for *row, weight in numbers.tolist():
            if not all(map(math.isfinite, row)):
                got = ", ".join(f"{name} {value}" for name, value in zip(self._names, row, strict=True))
                raise ValueError(
                    f"The numbers of a step must be finite, got {got}. Try a lower `lr`, `clip_grad` or another `amp`. "
                    "The last checkpoint is from before this step."
                )
            for since, sums in self._sums.items():
                self._counts[since] += weight
                for name, value in zip(self._names, row, strict=True):
                    sums[name] = sums.get(name, 0.0) + value
