"""Per-image statistics that test claims about responsive fields and the object.

Source of the claims: Ma et al., arXiv 2203.05922, Sec. 4.3: fields of object patches tend to be smaller, and tendencies
are object-centric. A statistic is meaningful only next to its value under `null_models`.
"""

import torch
from torch import Tensor

from vit_interactions.utilities.checks import check_grid


def size_difference(size: Tensor, inside: Tensor) -> float:
    """Compute the mean field size of the object's patches minus that of the others, as a fraction of all patches.

    Args:
        size: (patches,) number of patches in each field.
        inside: (patches,) bool, the patches on the object.

    Returns:
        A value in (-1, 1); negative if fields are smaller on the object, NaN if no patch is on one of the two sides.

    Example:
        >>> size_difference(torch.tensor([1, 3, 4, 4]), torch.tensor([True, True, False, False]))  # (2 - 4) / 4
        -0.5
    """
    values = size.double()
    return float((values[inside].mean() - values[~inside].mean()) / len(values))


def size_auc(size: Tensor, inside: Tensor) -> float:
    """Compute the probability that a patch of the object has a smaller field than another patch.

    This is the area under the ROC curve of "small field" as a detector of the object; ties count half.

    Args:
        size: (patches,) number of patches in each field.
        inside: (patches,) bool, the patches on the object.

    Returns:
        A value in [0, 1]; 0.5 if sizes do not separate the two groups, NaN if no patch is on one of the two sides.

    Example:
        >>> size_auc(torch.tensor([1, 4, 4, 5]), torch.tensor([True, True, False, False]))  # 3.5 of 4 pairs
        0.875
    """
    own, other = size[inside].unsqueeze(1), size[~inside]
    return float(((own < other).double() + 0.5 * (own == other)).mean())


def tendency_cosine(tendency: Tensor, grid: tuple[int, int], target: Tensor) -> float:
    """Compute the mean cosine between the fields' tendencies and the directions to a point.

    Args:
        tendency: (patches, 2) x, y, from `ResponsiveField.tendency`.
        grid: (rows, cols) of the patches.
        target: (2,) x, y of the point in patch units; (0, 0) is the center of the first patch.

    Returns:
        A value in [-1, 1]; 1 if all tendencies point at the target. Patches without a tendency, and one exactly at the
        target, are left out; NaN if none remains.

    Raises:
        ValueError: the grid does not fit the tendencies.

    Example:
        >>> tendency = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])  # of three patches in a row
        >>> tendency_cosine(tendency, (1, 3), torch.tensor([1.0, 0.0]))  # 1 and -1
        0.0
    """
    check_grid(grid, len(tendency))
    patch = torch.arange(len(tendency), device=tendency.device)
    direction = target.to(tendency).double() - torch.stack((patch % grid[1], patch // grid[1]), -1)
    lengths = direction.norm(dim=-1) * tendency.double().norm(dim=-1)
    products = (direction * tendency).sum(-1)
    return float((products[lengths > 0] / lengths[lengths > 0]).mean())


def object_center(inside: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the mean position of the object's patches: (2,) x, y in patch units, float64.

    Example:
        >>> object_center(torch.tensor([True, True, False, False]), (2, 2))
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    patch = inside.nonzero().squeeze(-1)
    return torch.stack((patch % grid[1], patch // grid[1]), -1).double().mean(0)


def image_center(grid: tuple[int, int]) -> Tensor:
    """Return the center of the image: (2,) x, y in patch units, float64.

    Example:
        >>> image_center((2, 3))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    rows, cols = grid
    return torch.tensor([(cols - 1) / 2, (rows - 1) / 2], dtype=torch.float64, device="cpu")
