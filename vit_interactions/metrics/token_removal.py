"""Insertion and deletion by hiding patches' tokens in place of painting over their pixels.

A ViT takes any number of tokens, so removing them shows it no picture that it has never seen, as grey squares do.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from vit_interactions.metrics.area_metric import area_metric
from vit_interactions.metrics.metric import Metric
from vit_interactions.metrics.removal import Ask, deletion_curve, insertion_curve
from vit_interactions.metrics.token_scores import token_scores


def token_insertion(steps: int = 20, *, name: str = "token_insertion") -> Metric:
    """Make the metric: the area below the curve of the class's score over the share of tokens shown.

    Args:
        steps: into how many the patches are divided.
        name: what tables call it.

    Example:
        >>> token_insertion().direction
        'higher'
    """
    return _metric(name, steps, "higher", insertion_curve)


def token_deletion(steps: int = 20, *, name: str = "token_deletion") -> Metric:
    """Make the metric: the area below the curve of the class's score over the share of tokens removed.

    Args:
        steps: into how many the patches are divided.
        name: what tables call it.

    Example:
        >>> token_deletion().direction
        'lower'
    """
    return _metric(name, steps, "lower", deletion_curve)


def _metric(
    name: str, steps: int, direction: Literal["higher", "lower"], curve_of: Callable[[Tensor, int, Ask], Tensor]
) -> Metric:
    return area_metric(
        name,
        direction,
        steps,
        curve_of,
        token_scores,
        source="Petsiuk et al., RISE, BMVC 2018, with tokens for pixels",
        parameters={"removal": "attention masked", "steps": steps, "score": "by `output`", "ties": "seeded"},
        passes=steps + 2,
    )
