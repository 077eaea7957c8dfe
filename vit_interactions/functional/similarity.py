"""Cosine similarity of the features of patches."""

import torch
from torch import Tensor

from vit_interactions.functional.attention import at_least_float32, without_autocast
from vit_interactions.utilities.checks import check_index


def unit_features(features: Tensor) -> Tensor:
    """Scale features to length 1, in float32 at least; features of zeros stay zeros.

    Args:
        features: (..., width).

    Example:
        >>> unit_features(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    wide = at_least_float32(features)
    # First by the largest entry, because squares of very large or small features overflow or vanish.
    largest = wide.abs().amax(-1, keepdim=True)
    scaled = wide / largest.masked_fill(largest == 0, 1.0)
    unit: Tensor = scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min(1.0)
    return unit


def cosine_similarity(features: Tensor, patch: int | None = None) -> Tensor:
    """Compute the cosine similarity of all pairs of patches, or of one patch to all.

        S_pq = ⟨x_p, x_q⟩ / (‖x_p‖ ‖x_q‖)

    Args:
        features: (batch, patches, width).
        patch: index of the patch p, from 0; None for all pairs.

    Returns:
        (batch, patches, patches), or (batch, patches) for one patch, in [-1, 1], at least float32. A patch whose
        features are all zero has similarity 0 to every patch.

    Raises:
        ValueError: features that are not (batch, patches, width), or `patch` is not an int.
        IndexError: no such patch.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]])
        >>> cosine_similarity(features, patch=0)
        tensor([[ 1.,  0., -1.]])
        >>> cosine_similarity(features).shape
        torch.Size([1, 3, 3])
    """
    check_features(features)
    if patch is not None and not 0 <= check_index("patch", patch) < features.shape[1]:
        raise IndexError(f"`patch` must lie in [0, {features.shape[1] - 1}], got {patch}.")
    with without_autocast(features):
        unit = unit_features(features)
        rows = unit if patch is None else unit[:, patch : patch + 1]
        similarity = (rows @ unit.mT).clamp(-1.0, 1.0)
        return similarity if patch is None else similarity.squeeze(1)


def mean_similarity(features: Tensor) -> Tensor:
    """Compute the mean cosine similarity of each patch to the other patches.

    Args:
        features: (batch, patches, width).

    Returns:
        (batch, patches) in [-1, 1], at least float32; 0 if there is only one patch.

    Example:
        >>> mean_similarity(torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]]))
        tensor([[-0.5000,  0.0000, -0.5000]])
    """
    check_features(features)
    with without_autocast(features):
        unit = unit_features(features)
        # The sum over all pairs without the matrix of pairs: ⟨x_p, Σ_q x_q⟩.
        total = (unit * unit.sum(1, keepdim=True)).sum(-1) - unit.square().sum(-1)
        return (total / max(1, features.shape[1] - 1)).clamp(-1.0, 1.0)


def check_features(features: Tensor) -> None:
    """Raise ValueError unless features are (batch, patches, width)."""
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(f"`features` must have shape (batch, patches, width), got {tuple(features.shape)}.")
