"""The first three principal components of patch features, as scores and as colors.

Source: the usual visualization of self-supervised features, Oquab et al., "DINOv2: Learning Robust Visual Features
without Supervision", TMLR 2024, Fig. 1. There, patches are first split into foreground and background by the first
component; here, all patches are kept.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.functional.similarity import check_features

COMPONENTS = 3
ROUNDING = 1e-6  # standard deviations up to this, relative to the features' size, are float32 rounding
RANGE = 0.02, 0.98  # quantiles of each component that get the color values 0 and 1


class PrincipalComponents(NamedTuple):
    """The result of `principal_components`.

    Attributes:
        scores: (batch, patches, 3), the centered features along each component.
        explained: (batch, 3), each component's fraction of the variance of the features, in descending order.
    """

    scores: Tensor
    explained: Tensor


def principal_components(features: Tensor, *, joint: bool = False) -> PrincipalComponents:
    """Compute the first three principal components of the patches' features.

        X_c = X - mean over patches,  X_cᵀ X_c v_i = λ_i v_i,  scores_i = X_c v_i,  explained_i = λ_i / Σ_j λ_j

    The sign of each component is such that its score of the largest magnitude is positive, which does not depend on the
    basis of the features.

    Args:
        features: (batch, patches, width).
        joint: one set of components for all images of the batch, so that scores can be compared among images; False:
            each image has its own.

    Returns:
        Scores and explained variance, float64 on the CPU. Components that do not exist are 0 and explain 0: with P
        patches (of the batch, if joint) and width D there are at most min(P - 1, D), and none if all features are equal
        up to rounding.

    Raises:
        ValueError: features that are not (batch, patches, width), or not finite.

    Example:
        >>> found = principal_components(torch.tensor([[[0.0, 1.0], [0.0, 1.0], [6.0, 1.0]]]))
        >>> found.scores[0, :, 0], found.explained
        (tensor([-2., -2.,  4.], dtype=torch.float64), tensor([[1., 0., 0.]], dtype=torch.float64))
    """
    check_features(features)
    if not features.isfinite().all():
        raise ValueError("`features` must be finite, got NaN or infinite values.")
    values = features.detach().cpu().double()
    values = values.flatten(0, 1).unsqueeze(0) if joint else values
    centered = values - values.mean(1, keepdim=True)
    # X Xᵀ has the same eigenvalues as Xᵀ X; the smaller one is faster.
    tall = centered.shape[1] >= centered.shape[2]
    variances, vectors = torch.linalg.eigh(centered.mT @ centered if tall else centered @ centered.mT)
    size = values.square().sum((1, 2)).unsqueeze(1)
    real = variances > ROUNDING**2 * size
    top, vectors = variances.masked_fill(~real, 0.0).flip(-1), vectors.flip(-1)
    explained = top / top.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    top, explained, vectors = top[:, :COMPONENTS], explained[:, :COMPONENTS], vectors[..., :COMPONENTS]
    scores = centered @ vectors if tall else vectors * top.sqrt().unsqueeze(1)
    extreme = scores.gather(1, scores.abs().argmax(1, keepdim=True))
    scores = scores * torch.where(extreme < 0, -1.0, 1.0) * (top > 0).unsqueeze(1)
    missing = COMPONENTS - top.shape[1]
    scores, explained = (F.pad(part, (0, missing)) for part in (scores, explained))
    if joint:
        scores, explained = scores.reshape(*features.shape[:2], -1), explained.expand(len(features), -1)
    return PrincipalComponents(scores, explained)


def component_colors(scores: Tensor, *, joint: bool = False) -> Tensor:
    """Scale each component to [0, 1] for display as red, green and blue.

    The 2nd percentile of a component becomes 0 and the 98th becomes 1; values beyond are clipped. Components without
    variation between the two become 0.5.

    Args:
        scores: (batch, patches, 3), from `principal_components`.
        joint: one range for all images of the batch; False: each image has its own.

    Returns:
        (batch, patches, 3) in [0, 1].

    Example:
        >>> component_colors(torch.tensor([[[-2.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [4.0, 0.0, 0.0]]]))[0, :, :2]
        tensor([[0.0000, 0.5000],
                [0.0000, 0.5000],
                [1.0000, 0.5000]])
    """
    check_features(scores)
    together = scores.flatten(0, 1).unsqueeze(0) if joint else scores
    # Outward to a patch's value, so that few patches keep their full range.
    low, high = (
        together.quantile(share, 1, keepdim=True, interpolation=end)
        for share, end in zip(RANGE, ("lower", "higher"), strict=True)
    )
    flat = high <= low
    colors = ((together - low) / (high - low).masked_fill(flat, 1.0)).clamp(0.0, 1.0).masked_fill(flat, 0.5)
    return colors.reshape(scores.shape)
