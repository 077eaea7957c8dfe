"""Average drop, increase and gain: change of the class probability when the image is multiplied by the map.

Source: Chattopadhay et al., Grad-CAM++, WACV 2018, Sec. 4.1 (drop, increase); Zhang et al., Opti-CAM, CVIU 2024 (gain).
These are the values of one image; comparisons average them over images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vit_interactions.explain.base import to_pixels
from vit_interactions.metrics.class_score import cached_scores, class_score
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.perturbation_metric import Direction
from vit_interactions.metrics.pixel_scores import blend, pixel_scores


def drop(full: float, masked: float) -> float:
    """Compute max(0, p - o) / p.

    Args:
        full: p, probability for the whole image.
        masked: o, probability for the masked image.

    Raises:
        ValueError: p = 0.

    Example:
        >>> drop(0.5, 0.375), drop(0.5, 0.75)
        (0.25, 0.0)
    """
    if full == 0:
        raise ValueError("the class has probability 0 for the whole image, so it cannot drop.")
    return max(0.0, full - masked) / full


def increase(full: float, masked: float) -> float:
    """Return 1 if o > p, otherwise 0; for the arguments see `drop`.

    Example:
        >>> increase(0.5, 0.375), increase(0.5, 0.75)
        (0.0, 1.0)
    """
    return float(masked > full)


def gain(full: float, masked: float) -> float:
    """Compute max(0, o - p) / (1 - p); for the arguments see `drop`.

    Raises:
        ValueError: p = 1.

    Example:
        >>> gain(0.75, 0.875), gain(0.75, 0.5)
        (0.5, 0.0)
    """
    if full == 1:
        raise ValueError("the class has probability 1 for the whole image, so it cannot gain.")
    return max(0.0, masked - full) / (1 - full)


def full_and_masked_probability(case: Case, patch_map: Tensor) -> tuple[float, float]:
    """Compute the class probability for the whole image and for the image times the map.

    The map is scaled to [0, 1] and resized bilinearly. Where it is 0, the image has the mean color of the
    normalization.

    Args:
        case: case with the image and the model.
        patch_map: (rows, cols), not constant.

    Returns:
        (p, o).
    """
    scaled = (patch_map - patch_map.min()) / (patch_map.max() - patch_map.min())

    def score(weights: Tensor) -> Tensor:
        pixels = to_pixels(weights, case.layout.extent, (case.inputs.shape[-2], case.inputs.shape[-1]))
        return class_score(case, blend(case, pixels, "mean"))

    # Patches may not cover the whole input, so the whole image can be more than all patches.
    whole = pixel_scores(case, torch.ones(1, *case.layout.grid, dtype=torch.bool, device="cpu"), "mean").item()
    return whole, cached_scores(case, "times map", scaled.unsqueeze(0), score).item()


def _metric(name: str, direction: Direction, source: str, compare: Callable[[float, float], float]) -> Metric:
    def measure(case: Case, patch_map: Tensor) -> Score:
        case.require_probability(name)
        return Score(compare(*full_and_masked_probability(case, check_map(patch_map, case.layout.grid))))

    return Metric(
        name=name,
        direction=direction,
        range=(0.0, 1.0),
        source=source,
        parameters={"baseline": "mean", "mask": "min-max scaled map, bilinear", "score": "by `output`"},
        needs=frozenset(),
        cost="2 forward passes, shared by average drop, increase and gain",
        measure=measure,
    )


AVERAGE_DROP = _metric("average_drop", "lower", "Chattopadhay et al., Grad-CAM++, WACV 2018", drop)
AVERAGE_INCREASE = _metric("average_increase", "higher", "Chattopadhay et al., Grad-CAM++, WACV 2018", increase)
AVERAGE_GAIN = _metric("average_gain", "higher", "Zhang et al., Opti-CAM, CVIU 2024", gain)
