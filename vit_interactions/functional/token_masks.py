"""Choose sets of patches to mask or to show, and combine the scores of the model under them.

Source of `sample_masks` and `mean_score_shown`: Englebert et al., "Explaining Through Transformer Input Sampling",
ICCV Workshops 2023.
"""

import torch
from torch import Tensor

from vit_interactions.functional.attention import at_least_float32
from vit_interactions.functional.kmeans import kmeans


def square_blocks(grid: tuple[int, int], size: int) -> Tensor:
    """List the square blocks of patches of a grid, moved by one patch at a time.

    Args:
        grid: (rows, cols).
        size: side of a block in patches, at most the smaller side of the grid.

    Returns:
        (blocks, patches) bool, True for the patches of a block.

    Example:
        >>> square_blocks((2, 3), 2).int()
        tensor([[1, 1, 0, 1, 1, 0],
                [0, 1, 1, 0, 1, 1]], dtype=torch.int32)
    """
    patches = torch.arange(grid[0] * grid[1], device="cpu")
    places = patches.view(grid).unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size)
    return torch.zeros(len(places), len(patches), dtype=torch.bool, device="cpu").scatter(1, places, True)


def sample_masks(activations: Tensor, masks: int, ratio: float, seed: int) -> Tensor:
    """Choose which patches each mask shows: those that are highest in the center of a cluster of channels.

    Args:
        activations: (patches, channels); each channel is a map over patches.
        masks: number of clusters; at most one per channel is used.
        ratio: fraction of the patches that a mask shows, rounded down.
        seed: random seed of the clusters.

    Returns:
        (masks, patches) bool.

    Example:
        >>> sample_masks(torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 5.0], [0.0, 4.0]]), 2, 0.5, seed=0).sum(0)
        tensor([1, 1, 1, 1])
    """
    channels = at_least_float32(activations).T
    generator = torch.Generator("cpu").manual_seed(seed)
    centers = kmeans(channels, min(masks, len(channels)), generator=generator)
    highest = centers.topk(int(ratio * centers.shape[1]), dim=1).indices
    return torch.zeros_like(centers, dtype=torch.bool).scatter(1, highest, True)


def mean_score_shown(scores: Tensor, shown: Tensor) -> Tensor:
    """Compute the mean score of the masks that show a patch, Σ_m s_m M_m / Σ_m M_m.

    Args:
        scores: (masks,).
        shown: (masks, patches) bool.

    Returns:
        (patches,); a patch that no mask shows gets the mean of all scores.

    Example:
        >>> mean_score_shown(torch.tensor([1.0, 0.0]), torch.tensor([[True, True, False], [True, False, False]]))
        tensor([0.5000, 1.0000, 0.5000])
    """
    weights = shown.to(scores)
    coverage = weights.sum(0)
    return torch.where(coverage > 0, scores @ weights / coverage.clamp(min=1), scores.mean())
