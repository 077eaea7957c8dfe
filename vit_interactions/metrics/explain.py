"""Running a case's method again, on other images or on another model."""

import warnings

import torch
from torch import Tensor, nn

from vit_interactions.explain.zero_map import ZeroMapWarning
from vit_interactions.metrics.metric import Case


def explain(case: Case, model: nn.Module, images: Tensor) -> Tensor:
    """Compute the maps (batch, rows, cols), float64 on the CPU, of a case's method and target.

    A map of zeros is an answer here, and not warned of.

    Args:
        case: whose method is run.
        model: the case's model, or a changed copy of it.
        images: (batch, channels, height, width).

    Raises:
        ValueError: a case without `explain`, or maps of another shape, or not finite.
    """
    if case.explain is None:
        raise ValueError("needs the method to be run again, but the case has no `explain`.")
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)
        maps = case.explain(model, images, case.target).detach().to("cpu", torch.float64)
    expected = (len(images), *case.layout.grid)
    if tuple(maps.shape) != expected:
        raise ValueError(f"`explain` must give maps of shape {expected}, but gave {tuple(maps.shape)}.")
    if not maps.isfinite().all():
        raise ValueError("the method, run again, gave NaN or infinite values.")
    return maps.contiguous()
