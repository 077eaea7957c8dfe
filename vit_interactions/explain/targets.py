"""Which number of the model's output is explained: captum's targets, checked, or a function of your own."""

import contextlib
import operator
from typing import Any

import torch
from torch import Tensor

from vit_interactions.functional.scores import class_outputs


def select_target(output: Any, target: Any, batch: int | None = None) -> Tensor:
    """Pick one score an example from a model's output.

    Args:
        output: (batch, classes); (batch,), which is one class; or an object that has either as `logits`, as the
            outputs of transformers do.
        target: a class for all examples (int, tensor of one int, 1-tuple) or one an example (list or
            one-dimensional tensor of ints, list of 1-tuples), negative counting from the end; "pred" for the
            class of the highest score of each example; or a function that computes (batch,) scores from the
            output: the similarity to a text, a neuron, a difference of classes.
        batch: number of images that the output is for, checked if given.

    Returns:
        (batch,) scores.

    Raises:
        TypeError: a bool, a float, or no kind of target.
        ValueError: not one target or one per example, or an output that is neither (batch, classes) nor (batch,).
        IndexError: a class that the output does not have.

    Example:
        >>> select_target(torch.tensor([[0.1, 0.9], [0.7, 0.3]]), lambda scores: scores[:, 1] - scores[:, 0])
        tensor([ 0.8000, -0.4000])
        >>> select_target(torch.tensor([[0.1, 0.9], [0.7, 0.3]]), [1, 0])
        tensor([0.9000, 0.7000])
    """
    if callable(target):
        return _as_scores(target(output), target, batch)
    outputs = class_outputs(output, batch)
    batch, classes = outputs.shape
    if isinstance(target, str) and target == "pred":
        return outputs.amax(1)
    indices = _as_integers(target)
    if len(indices) not in (1, batch) or (isinstance(target, list) and len(indices) != batch):
        raise ValueError(f"`target` must be one class or {batch}, one an example, but got {len(indices)}.")
    for index in indices:
        if not -classes <= index < classes:
            raise IndexError(
                f"`target` must lie in [{-classes}, {classes - 1}] for {classes} classes, but got {index}."
            )
    chosen = torch.tensor(indices, device=outputs.device) % classes
    return outputs.gather(1, chosen.expand(batch).unsqueeze(1)).squeeze(1)


def require_target(method: str, target: Any) -> None:
    """Raise ValueError if a method that explains one score was given no target."""
    if target is None:
        raise ValueError(
            f"{method} explains one score of the output: `target` must be a class index (or one an example), "
            '"pred" for the class of the highest score, or a function of the output, but got None.'
        )


def _as_scores(scores: Any, target: Any, batch: int | None) -> Tensor:
    if not (
        isinstance(scores, Tensor)
        and scores.ndim == 1
        and batch in (None, len(scores))
        and scores.is_floating_point()
    ):
        came = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        name = getattr(target, "__name__", type(target).__name__)
        images = "" if batch is None else f" for {batch} image{'s' * (batch != 1)}"
        raise ValueError(f"`target` {name} must compute one score per image, (batch,), got {came}{images}.")
    return scores


def _as_integers(target: Any) -> list[int]:
    if isinstance(target, Tensor):
        integral = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
        if integral and target.ndim <= 1:
            return [int(value) for value in target.reshape(-1)]
    elif isinstance(target, list):
        parts = [_as_integers(value) for value in target]
        if all(len(part) == 1 for part in parts):
            return [part[0] for part in parts]
    elif isinstance(target, tuple):
        if len(target) == 1:
            return _as_integers(target[0])
    elif not isinstance(target, bool):
        with contextlib.suppress(TypeError):  # arrays of several numbers have the method, and raise
            return [operator.index(target)]
    shown = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else repr(target)
    raise TypeError(
        '`target` must be a class index, or one an example (int, list or tensor of ints), "pred" for the class of '
        f"the highest score, or a function of the output, but got {shown}."
    )
