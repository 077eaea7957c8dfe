"""Scores of a model's output: class probabilities or values, with the link function of its head."""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from vit_interactions.utilities.checks import check_choice
from vit_interactions.utilities.choices import Output as Output
from vit_interactions.utilities.text import plural

OUTPUTS: tuple[Output, ...] = get_args(Output)

ROUNDING = 1e-4  # tolerance of the sum of probabilities


def check_output(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is one of `OUTPUTS`, or None."""
    if value is not None:
        check_choice(name, value, OUTPUTS)


def class_outputs(output: Any, batch: int | None = None) -> Tensor:
    """Return a model's output as (batch, classes).

    Args:
        output: (batch, classes); (batch,), which is one class; or an object with either as `logits`, as in
            transformers.
        batch: number of input images, if known. Distinguishes (batch,) from the (classes,) of a model that drops the
            batch dimension.

    Raises:
        ValueError: another output; the error describes it and suggests a target.

    Example:
        >>> class_outputs(torch.zeros(4)).shape
        torch.Size([4, 1])
    """
    outputs: Any = getattr(output, "logits", output)
    if isinstance(outputs, Tensor) and outputs.ndim in (1, 2) and batch in (None, len(outputs)):
        return outputs if outputs.ndim == 2 else outputs.unsqueeze(1)
    if isinstance(outputs, Tensor) and outputs.ndim == 0:
        raise ValueError(
            "the model must return scores of each image, (batch, classes) or (batch,), got one number for the whole "
            "batch. Return it before it is averaged over the batch."
        )
    received, example = _describe(outputs, batch)
    images = "" if batch is None else f" for {plural(batch, 'image')}"
    raise ValueError(
        "`target` must be a function of the output for a model whose output is neither (batch, classes) nor (batch,), "
        f"got {received}{images}. Return one score per image, for example target=lambda output: {example}."
    )


def class_scores(outputs: Tensor, output: Output) -> Tensor:
    """Apply the link function of a head to its outputs.

    Args:
        outputs: (batch, classes), on any device.
        output: "softmax" for logits of mutually exclusive classes; "sigmoid" for logits of independent classes;
            "probabilities" and "value" (regression) for outputs that are used unchanged.

    Returns:
        (batch, classes) float64 on the CPU: probabilities in [0, 1], or unchanged values.

    Raises:
        ValueError: an unknown `output`, the softmax of a single output, or probabilities outside [0, 1].

    Example:
        >>> class_scores(torch.tensor([[0.0, 0.0]]), "sigmoid")
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    check_output("output", output)
    values = outputs.detach().to("cpu", torch.float64)
    if output == "softmax":
        if values.shape[1] == 1:
            raise ValueError(
                "`output` must be 'sigmoid', 'probabilities' or 'value' for a model with one output, got 'softmax'. "
                "The softmax of one number is always 1."
            )
        return values.softmax(1)
    if output == "sigmoid":
        return values.sigmoid()
    if output == "probabilities" and bool(((values < -ROUNDING) | (values > 1 + ROUNDING)).any()):
        raise ValueError(
            "`output` must be 'softmax', 'sigmoid' or 'value' for a model whose output leaves [0, 1], got "
            f"'probabilities' for values from {values.min():.3g} to {values.max():.3g}."
        )
    return values


def are_distributions(outputs: Tensor) -> bool:
    """Check whether each row of (batch, classes) is >= 0 and sums to 1, as after a softmax.

    Example:
        >>> are_distributions(torch.tensor([[0.25, 0.75]])), are_distributions(torch.tensor([[0.25, 0.5]]))
        (True, False)
    """
    tolerance = max(ROUNDING, torch.finfo(outputs.dtype).eps)
    values = outputs.detach().to("cpu", torch.float64)
    return values.shape[1] > 1 and bool((values >= 0).all() and ((values.sum(1) - 1).abs() <= tolerance).all())


def _describe(output: Any, batch: int | None) -> tuple[str, str]:
    """Describe an output that is not (batch, classes), and return an expression that extracts a score."""
    kind = type(output).__name__
    if isinstance(output, Tensor):
        row = (
            f"output[:, {'0, ' * (output.ndim - 2)}1]" if output.ndim > 2 else f"output.reshape({batch}, -1)[:, 0]"
        )
        return f"shape {tuple(output.shape)}", row
    if isinstance(output, Mapping):
        key = next((key for key, part in output.items() if isinstance(part, Tensor)), "logits")
        return f"a {kind} with {', '.join(map(repr, output))}", f"output[{key!r}][:, 1]"
    if isinstance(output, tuple | list):
        index = next((index for index, part in enumerate(output) if isinstance(part, Tensor)), 0)
        return f"a {kind} of length {len(output)}", f"output[{index}][:, 1]"
    return f"a {kind}", "output.scores[:, 1]"
