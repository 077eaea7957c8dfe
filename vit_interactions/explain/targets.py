"""Select the score to explain from a model's output: by captum's targets, or by a function."""

import contextlib
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vit_interactions.functional.scores import class_outputs
from vit_interactions.utilities.text import plural


def select_target(output: Any, target: Any, batch: int | None = None) -> Tensor:
    """Select one score per example from a model's output.

    Args:
        output: (batch, classes); (batch,) for a single class; or an object with one of these as `logits`, such as the
            outputs of transformers.
        target: a class for all examples (int, tensor of one int, 1-tuple) or one per example (list or
            one-dimensional tensor of ints, list of 1-tuples), where negative classes count from the end; "pred" for
            the predicted class of each example; or a function that computes (batch,) scores from the output: a
            similarity to a text, a neuron, a difference between classes.
        batch: expected number of images, checked if given.

    Returns:
        (batch,) scores.

    Raises:
        TypeError: a bool, a float, or another type that is not a target.
        ValueError: not one target or one per example, or an output of another shape.
        IndexError: a class that does not exist.

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
        raise ValueError(f"`target` must be one class or {batch}, one per example, got {len(indices)}.")
    for index in indices:
        if not -classes <= index < classes:
            raise IndexError(
                f"`target` must lie in [{-classes}, {classes - 1}] for {classes} classes, got {index}."
            )
    chosen = torch.tensor(indices, device=outputs.device) % classes
    return outputs.gather(1, chosen.expand(batch).unsqueeze(1)).squeeze(1)


def select_rows(output: Any, rows: Any) -> Any:
    """Select the rows of some images in an output, which may contain several tensors, as in transformers.

    Args:
        output: tensors with a row per image, or mappings and tuples of them.
        rows: index of the first axis, such as a slice or a tensor.

    Raises:
        TypeError: another output.

    Example:
        >>> select_rows({"logits": torch.tensor([[1.0], [2.0], [3.0]])}, slice(1, 3))
        {'logits': tensor([[2.],
                [3.]])}
    """
    if isinstance(output, Tensor):
        return output[rows]
    if isinstance(output, Mapping):
        return type(output)(**{name: select_rows(part, rows) for name, part in output.items()})
    if isinstance(output, tuple):
        return tuple(select_rows(part, rows) for part in output)
    raise TypeError(f"the model's output must be a tensor or a mapping of tensors, got {type(output).__name__}.")


def require_target(method: str, target: Any) -> None:
    """Raise ValueError if a class-specific method was given no target."""
    if target is None:
        raise ValueError(
            f"{method} explains one score of the output: `target` must be a class index (or one per example), "
            '"pred" for the predicted class, or a function of the output, got None.'
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
        images = "" if batch is None else f" for {plural(batch, 'image')}"
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
        with contextlib.suppress(TypeError):  # raised by arrays of several numbers, which have `__index__`
            return [operator.index(target)]
    shown = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else repr(target)
    raise TypeError(
        '`target` must be a class index, or one per example (int, list or tensor of ints), "pred" for the '
        f"predicted class, or a function of the output, got {shown}."
    )
