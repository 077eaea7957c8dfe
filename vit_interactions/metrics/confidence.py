"""Average drop, increase and gain: the class's probability once all but what the map marks is dimmed.

Source: Chattopadhay et al., Grad-CAM++, WACV 2018, Sec. 4.1 (drop, increase); Zhang et al., Opti-CAM, CVIU 2024 (gain).
One photograph's values; the averages are over photographs.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vit_interactions.explain.base import to_pixels
from vit_interactions.metrics.class_score import class_score, remembered
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.pixel_scores import mix, pixel_scores


def drop(full: float, masked: float) -> float:
    """Compute max(0, p - o) / p.

    Args:
        full: p, the probability for the whole photograph.
        masked: o, that for the masked one.

    Raises:
        ValueError: p = 0.

    Example:
        >>> drop(0.5, 0.375), drop(0.5, 0.75)
        (0.25, 0.0)
    """
    if full == 0:
        raise ValueError("the class has probability 0 for the whole photograph, so that it cannot drop.")
    return max(0.0, full - masked) / full


def increase(full: float, masked: float) -> float:
    """Tell whether o > p, as 1 or 0; arguments as of `drop`.

    Example:
        >>> increase(0.5, 0.375), increase(0.5, 0.75)
        (0.0, 1.0)
    """
    return float(masked > full)


def gain(full: float, masked: float) -> float:
    """Compute max(0, o - p) / (1 - p); arguments as of `drop`.

    Raises:
        ValueError: p = 1.

    Example:
        >>> gain(0.75, 0.875), gain(0.75, 0.5)
        (0.5, 0.0)
    """
    if full == 1:
        raise ValueError("the class has probability 1 for the whole photograph, so that it cannot gain.")
    return max(0.0, masked - full) / (1 - full)


def masked_probability(case: Case, patch_map: Tensor) -> tuple[float, float]:
    """Ask the model for the whole photograph and for that times the map.

    The map is scaled to [0, 1] patch by patch and then resized bilinearly; where it is 0, the photograph has the mean
    colour of the normalisation.

    Args:
        case: whose photograph and model these are.
        patch_map: (rows, cols), not constant.

    Returns:
        (p, o).
    """
    scaled = (patch_map - patch_map.min()) / (patch_map.max() - patch_map.min())

    def ask(weights: Tensor) -> Tensor:
        pixels = to_pixels(weights, case.layout.extent, (case.inputs.shape[-2], case.inputs.shape[-1]))
        return class_score(case, mix(case, pixels, "mean"))

    # Patches need not cover the input: the whole photograph is more than all patches.
    whole = pixel_scores(case, torch.ones(1, *case.layout.grid, dtype=torch.bool, device="cpu"), "mean").item()
    return whole, remembered(case, "times map", scaled.unsqueeze(0), ask).item()


def _metric(
    name: str, direction: Literal["higher", "lower"], source: str, compare: Callable[[float, float], float]
) -> Metric:
    def measure(case: Case, patch_map: Tensor) -> Score:
        case.require_probability(name)
        return Score(compare(*masked_probability(case, check_map(patch_map, case.layout.grid))))

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
