"""Cluster many points on any device by Lloyd's algorithm."""

import torch
from torch import Tensor


def kmeans(points: Tensor, clusters: int, *, generator: torch.Generator, iterations: int = 100) -> Tensor:
    """Compute the centers of clusters of points.

    Starts at random points, and ends when no point changes its cluster. A center without points stays where it is.

    Args:
        points: (points, width).
        clusters: number of centers, at most the number of points.
        generator: on the CPU, draws the first centers.
        iterations: upper limit.

    Returns:
        (clusters, width).

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
        >>> kmeans(points, 2, generator=torch.Generator().manual_seed(0)).sort(0).values.squeeze(1)
        tensor([ 0.5000, 11.0000])
    """
    start = torch.randperm(len(points), generator=generator, device="cpu")[:clusters]
    centers = points[start.to(points.device)]
    assigned = torch.full((len(points),), -1, device=points.device)
    for _ in range(iterations):
        # |x - c|^2 without |x|^2, which is the same for all centers.
        nearest = (centers.square().sum(1) - 2 * points @ centers.T).argmin(1)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        # A product instead of a scattered sum, whose order of additions is not fixed on a GPU.
        members = (assigned == torch.arange(clusters, device=points.device).unsqueeze(1)).to(points)
        counts = members.sum(1, keepdim=True)
        centers = torch.where(counts > 0, members @ points / counts.clamp(min=1), centers)
    return centers
