"""Insertion and deletion of tokens instead of pixels.

A ViT accepts any number of tokens. Removing tokens therefore avoids out-of-distribution images, such as gray squares.
"""

from vit_interactions.metrics.metric import Metric
from vit_interactions.metrics.perturbation_curves import deletion_curve, insertion_curve
from vit_interactions.metrics.perturbation_metric import CurveOf, Direction, perturbation_metric
from vit_interactions.metrics.token_scores import token_scores


def token_insertion(steps: int = 20, *, name: str = "token_insertion") -> Metric:
    """Create the metric: area under the curve of the class score over the fraction of tokens shown.

    Args:
        steps: number of steps in which the tokens are shown.
        name: name in tables.

    Example:
        >>> token_insertion().direction
        'higher'
    """
    return _metric(name, "higher", steps, insertion_curve)


def token_deletion(steps: int = 20, *, name: str = "token_deletion") -> Metric:
    """Create the metric: area under the curve of the class score over the fraction of tokens removed.

    Args:
        steps: number of steps in which the tokens are removed.
        name: name in tables.

    Example:
        >>> token_deletion().direction
        'lower'
    """
    return _metric(name, "lower", steps, deletion_curve)


def _metric(name: str, direction: Direction, steps: int, curve_of: CurveOf) -> Metric:
    return perturbation_metric(
        name,
        direction,
        steps,
        curve_of,
        token_scores,
        source="Petsiuk et al., RISE, BMVC 2018, with tokens instead of pixels",
        parameters={"removal": "attention masked"},
        cost=f"{steps + 2} forward passes",
    )
