"""Compute all claims about the fields of one image, for its object and under each null model."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean

import torch
from torch import Tensor, nn

from vit_interactions.explain import InteractionUncertainty
from vit_interactions.functional.field_claims import (
    image_center,
    object_center,
    size_auc,
    size_difference,
    tendency_cosine,
)
from vit_interactions.functional.null_models import central_patches, distance_only, noise_like, shuffle_rows
from vit_interactions.functional.responsive_field import ResponsiveField, responsive_field

CLAIMS = ("smaller_inside", "size_difference", "size_auc", "tendency_cosine")
REAL = "real"
# Reality, then other targets for the same fields, then other U.
CONTROLS = (REAL, "other_boxes", "image_center", "shuffled_rows", "distance_only", "noise_image")

Values = dict[str, float]  # claim -> value


@dataclass(frozen=True, eq=False)
class Target:
    """The object that fields are compared with, or its replacement.

    Attributes:
        inside: (patches,) bool, the patches on it.
        center: (2,) x, y in patch units.
    """

    inside: Tensor
    center: Tensor

    @classmethod
    def of_object(cls, inside: Tensor) -> "Target":
        """Create the target of an object from its patches (rows, cols)."""
        return cls(inside.flatten(), object_center(inside.flatten(), (inside.shape[0], inside.shape[1])))

    @classmethod
    def of_center(cls, count: int, grid: tuple[int, int]) -> "Target":
        """Create the target in the middle of the image, with about `count` patches."""
        return cls(central_patches(count, grid), image_center(grid))


def measure_image(
    model: nn.Module,
    inputs: Tensor,
    own: Tensor,
    others: Sequence[Tensor],
    *,
    alphas: Sequence[float],
    beta: float,
    seed: int,
    coverage: float = 1.0,
    exclude_sinks: bool = False,
) -> dict[tuple[float, str], Values]:
    """Compute all claims about one image under all controls.

    Args:
        model: the model, in evaluation mode on its device.
        inputs: (1, channels, height, width), on the CPU.
        own: (rows, cols) bool, the patches on the image's object.
        others: the same for objects of other images; values are averaged over them.
        alphas: fractions of all patch pairs that count as relevant.
        beta: fraction of the patches that are dropped as indiscriminative.
        seed: of the random numbers.
        coverage: fraction of a patch's relevant patches that its window contains at least; see `adaptive_windows`.
        exclude_sinks: leave out the attention sinks of the image, and of the noise image.

    Returns:
        alpha and control -> claim -> value; NaN where a claim is undefined.
    """
    random = torch.Generator().manual_seed(seed)
    explainer = InteractionUncertainty(model, exclude_sinks)
    device = next(model.parameters()).device
    grid = (own.shape[0], own.shape[1])

    def interactions(images: Tensor) -> tuple[Tensor, Tensor | None]:
        uncertainty, _, exclude = explainer.compute(images.to(device))
        return uncertainty.cpu(), None if exclude is None else exclude.cpu()

    real, sinks = interactions(inputs)
    nulls = {
        "shuffled_rows": (shuffle_rows(real, random, sinks), sinks),
        "distance_only": (distance_only(real, grid, random, sinks), sinks),
        "noise_image": interactions(noise_like(inputs, random)),
    }
    target, middle = Target.of_object(own), Target.of_center(int(own.sum()), grid)
    strangers = [Target.of_object(other) for other in others]
    found = {}
    for alpha in alphas:
        field = responsive_field(real, grid, alpha, beta, coverage=coverage, exclude=sinks)
        found[alpha, REAL] = evaluate_claims(field, target)
        found[alpha, "other_boxes"] = average([evaluate_claims(field, stranger) for stranger in strangers])
        found[alpha, "image_center"] = evaluate_claims(field, middle)
        for control, (uncertainty, exclude) in nulls.items():
            other = responsive_field(uncertainty, grid, alpha, beta, coverage=coverage, exclude=exclude)
            found[alpha, control] = evaluate_claims(other, target)
    return found


def evaluate_claims(field: ResponsiveField, target: Target) -> Values:
    """Compute all claims about the fields of one image."""
    size = field.size[0]
    difference = size_difference(size, target.inside)
    return {
        "smaller_inside": nan if isnan(difference) else float(difference < 0),
        "size_difference": difference,
        "size_auc": size_auc(size, target.inside),
        "tendency_cosine": tendency_cosine(field.tendency[0], field.grid, target.center),
    }


def average(values: Sequence[Values]) -> Values:
    """Average each claim over targets, leaving out those for which it is undefined.

    Example:
        >>> average([{"size_auc": 0.25}, {"size_auc": 0.75}, {"size_auc": nan}])
        {'size_auc': 0.5}
    """
    defined = {claim: [each[claim] for each in values if not isnan(each[claim])] for claim in values[0]}
    return {claim: fmean(numbers) if numbers else nan for claim, numbers in defined.items()}
