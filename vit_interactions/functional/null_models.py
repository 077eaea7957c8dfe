"""Null models: what fields look like when U, the image or the object's position carries no information.

A statistic of responsive fields supports a claim about objects only if it differs from these. Objects tend to be in
the middle of images, and so do large windows, because an image's border cuts off the windows near it.
"""

import torch
from torch import Tensor

from vit_interactions.utilities.checks import check_excluded, check_grid, check_uncertainty

TIE = 1e-9  # relative size of the random numbers that break ties


def shuffle_rows(uncertainty: Tensor, generator: torch.Generator, exclude: Tensor | None = None) -> Tensor:
    """Permute the values within each row of U at random, which reassigns them to random patches.

    Args:
        uncertainty: U (batch, patches, patches).
        generator: random numbers, on the CPU.
        exclude: (batch, patches) bool, patches whose columns stay as they are, such as attention sinks; None for none.

    Returns:
        U (batch, patches, patches), with the same values per row.

    Raises:
        ValueError: inconsistent shapes, or values that are not finite.

    Example:
        >>> shuffled = shuffle_rows(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.Generator().manual_seed(0))
        >>> shuffled.sort(-1).values
        tensor([[[1., 2.],
                 [3., 4.]]])
    """
    check_uncertainty(uncertainty)
    check_excluded(exclude, uncertainty)
    keys = torch.rand(uncertainty.shape, generator=generator, device="cpu").to(uncertainty.device)
    if exclude is None:
        return uncertainty.gather(-1, keys.argsort(dim=-1, stable=True))
    fixed = exclude.unsqueeze(1).expand_as(uncertainty)
    # Both orders end with the excluded columns, in the order of their indices.
    drawn = uncertainty.gather(-1, keys.masked_fill(fixed, torch.inf).argsort(dim=-1, stable=True))
    return torch.empty_like(uncertainty).scatter(-1, fixed.byte().argsort(dim=-1, stable=True), drawn)


def distance_only(
    uncertainty: Tensor, grid: tuple[int, int], generator: torch.Generator, exclude: Tensor | None = None
) -> Tensor:
    """Replace each value of U by the mean over all pairs of the image at the same distance.

    The result depends on the distance of two patches only, not on their position or content.

    Args:
        uncertainty: U (batch, patches, patches).
        grid: (rows, cols) of the patches.
        generator: random numbers, on the CPU. Pairs at the same distance get values that differ by about one part in
            10^9. Otherwise `relevant_pairs` would choose among them by index and favor the top of the image.
        exclude: (batch, patches) bool, patches whose columns do not count for the means; None for none.

    Returns:
        U (batch, patches, patches), float64.

    Raises:
        ValueError: inconsistent shapes, or values that are not finite.

    Example:
        >>> uncertainty = torch.tensor([[[0.0, 1.0, 8.0], [2.0, 0.0, 3.0], [4.0, 2.0, 0.0]]])
        >>> distance_only(uncertainty, (1, 3), torch.Generator().manual_seed(0)).round(decimals=6)
        tensor([[[0., 2., 6.],
                 [2., 0., 2.],
                 [6., 2., 0.]]], dtype=torch.float64)
    """
    check_uncertainty(uncertainty)
    check_excluded(exclude, uncertainty)
    check_grid(grid, uncertainty.shape[-1])
    patch = torch.arange(uncertainty.shape[-1], device=uncertainty.device)
    row, col = patch // grid[1], patch % grid[1]
    squared = ((row[:, None] - row) ** 2 + (col[:, None] - col) ** 2).flatten()
    kept = torch.ones_like(uncertainty, dtype=torch.double)
    if exclude is not None:
        kept = kept.masked_fill(exclude.unsqueeze(1), 0.0)
    counts, sums = (
        values.new_zeros(len(values), int(squared.max()) + 1).index_add_(1, squared, values)
        for values in (kept.flatten(1), (kept * uncertainty).flatten(1))
    )
    means = (sums / counts.clamp(min=1))[:, squared]
    noise = torch.rand(means.shape, generator=generator, device="cpu", dtype=means.dtype).to(means.device)
    return (means * (1 + TIE * noise)).view(uncertainty.shape)


def noise_like(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw images of Gaussian noise with the mean and standard deviation of each image's channels.

    Args:
        images: (batch, channels, height, width).
        generator: random numbers, on the CPU.

    Returns:
        (batch, channels, height, width).

    Example:
        >>> noise_like(torch.full((1, 3, 2, 2), 0.5), torch.Generator()).unique()  # constant: a deviation of 0
        tensor([0.5000])
    """
    std, mean = torch.std_mean(images, dim=(-2, -1), correction=0, keepdim=True)
    noise = torch.randn(images.shape, generator=generator, device="cpu").to(images)
    return mean + std * noise


def derangements(count: int, draws: int, generator: torch.Generator) -> Tensor:
    """Draw random permutations that map no image to itself, to give each image the box of another.

    Args:
        count: number of images, at least 2.
        draws: number of permutations.
        generator: random numbers, on the CPU.

    Returns:
        (draws, count) int64. All permutations without a fixed point are equally likely.

    Raises:
        ValueError: `count` is less than 2.

    Example:
        >>> derangements(2, 3, torch.Generator())
        tensor([[1, 0],
                [1, 0],
                [1, 0]])
    """
    if count < 2:
        raise ValueError(f"`count` must be at least 2, got {count}. One image has no other image.")
    own = torch.arange(count, device="cpu")
    found: list[Tensor] = []
    while len(found) < draws:  # about 1/e of all permutations have no fixed point
        drawn = torch.randperm(count, generator=generator, device="cpu")
        if not (drawn == own).any():
            found.append(drawn)
    return torch.stack(found)


def central_patches(count: int, grid: tuple[int, int]) -> Tensor:
    """Mark the patches closest to the center of the image: at least `count`, and all that are equally close.

    Args:
        count: number of patches, from 1 to all.
        grid: (rows, cols) of the patches.

    Returns:
        (patches,) bool.

    Raises:
        ValueError: `count` is less than 1 or more than all patches.

    Example:
        >>> central_patches(1, (2, 3)).view(2, 3).int()
        tensor([[0, 1, 0],
                [0, 1, 0]], dtype=torch.int32)
    """
    rows, cols = grid
    if not 1 <= count <= rows * cols:
        raise ValueError(f"`count` must lie in [1, {rows * cols}], got {count}.")
    patch = torch.arange(rows * cols, device="cpu")
    # Integers: doubled coordinates, so that equal distances are equal.
    squared = (2 * (patch // cols) - (rows - 1)) ** 2 + (2 * (patch % cols) - (cols - 1)) ** 2
    return squared <= squared.sort().values[count - 1]
