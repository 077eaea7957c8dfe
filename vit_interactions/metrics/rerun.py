"""Run a case's method again, on other images or on another model."""

import warnings

import torch
from torch import Tensor, nn

from vit_interactions.explain.zero_map import ZeroMapWarning
from vit_interactions.metrics.metric import Case


def rerun_method(case: Case, model: nn.Module, images: Tensor) -> Tensor:
    """Compute the maps (batch, rows, cols), float64 on the CPU, for a case's method and target.

    A map of zeros is a valid result here and does not warn.

    Args:
        case: case with the method.
        model: the case's model, or a modified copy of it.
        images: (batch, channels, height, width).

    Raises:
        ValueError: a case without `explain`, or maps of another shape, or not finite.
    """
    if case.explain is None:
        raise ValueError("needs to run the method again, but the case has no `explain`.")
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)
        maps = case.explain(model, images, case.target).detach().to("cpu", torch.float64)
    expected = (len(images), *case.layout.grid)
    if tuple(maps.shape) != expected:
        raise ValueError(f"`explain` must return maps of shape {expected}, got {tuple(maps.shape)}.")
    if not maps.isfinite().all():
        raise ValueError("the method returned NaN or infinite values when it was run again.")
    return maps.contiguous()
