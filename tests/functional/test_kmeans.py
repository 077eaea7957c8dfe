"""k-means: a slow loop of Lloyd's algorithm, and clusters known by hand."""

import torch

from vit_interactions.functional.kmeans import kmeans


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lloyds_algorithm_by_a_loop() -> None:
    points = torch.randn(60, 5, dtype=torch.float64, generator=generator(1))
    centers = [points[place].tolist() for place in torch.randperm(60, generator=generator()).tolist()[:7]]
    for _ in range(100):
        groups: list[list[list[float]]] = [[] for _ in centers]
        for point in points.tolist():
            distances = [sum((a - b) ** 2 for a, b in zip(point, center, strict=True)) for center in centers]
            groups[distances.index(min(distances))].append(point)
        centers = [
            [sum(axis) / len(group) for axis in zip(*group, strict=True)] if group else center
            for group, center in zip(groups, centers, strict=True)
        ]
    found = kmeans(points, 7, generator=generator())
    torch.testing.assert_close(found, torch.tensor(centers, dtype=torch.float64), rtol=0, atol=1e-12)


def test_as_many_clusters_as_points_are_the_points() -> None:
    points = torch.randn(9, 3, generator=generator(1))
    found = kmeans(points, 9, generator=generator())
    assert torch.equal(found[torch.randperm(9, generator=generator()).argsort()], points)


def test_a_center_without_points_stays() -> None:
    points = torch.tensor([[1.0], [1.0], [1.0], [5.0]])
    found = kmeans(points, 3, generator=generator(2))
    assert found.isfinite().all()
    assert set(found.flatten().tolist()) <= {1.0, 2.0, 5.0}
