"""Single-deletion correlation: do the values of regions rank as the drops of the score when one region is deleted?

Source: Hesse, Schaub-Meyer and Roth, Benchmarking the Attribution Quality of Vision Models, NeurIPS 2024 (arXiv
2407.11910). Their in-domain single-deletion score (IDSDS) fine-tunes each model on images with deleted regions, so that
deletions are in-domain. Here the model is used as it is, so this is not IDSDS: deletions may be out-of-distribution.
They use the logit and zeros; here the score is that of the model's head. For grids that do not divide into equal
regions, values and drops are per patch of a region, which does not change the ranks of equal regions.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.pixel_scores import values_and_drops
from vit_interactions.utilities.checks import check_count


def grid_regions(grid: tuple[int, int], cells: int) -> Tensor:
    """Divide the patches into cells x cells rectangles of equal size, up to rounding.

    Args:
        grid: (rows, cols).
        cells: rectangles per side; at most one per patch.

    Returns:
        (regions, rows, cols) bool; each patch is in one region.

    Example:
        >>> grid_regions((1, 3), 2).int()
        tensor([[[1, 1, 0]],
        <BLANKLINE>
                [[0, 0, 1]]], dtype=torch.int32)
    """
    across = [min(cells, size) for size in grid]
    row, col = (torch.arange(size, device="cpu") * count // size for size, count in zip(grid, across, strict=True))
    number = row[:, None] * across[1] + col
    return number == torch.arange(across[0] * across[1], device="cpu")[:, None, None]


def single_deletion(baseline: str = "mean", cells: int = 4, *, name: str = "single_deletion") -> Metric:
    """Create the metric: Spearman's correlation between the regions' values and drops.

    Args:
        baseline: replacement of the deleted region: "blur", "mean" or "zero".
        cells: regions per side of the image.
        name: name in tables.

    Returns:
        The metric; it raises ValueError if all regions have the same value, or the same drop.

    Example:
        >>> single_deletion().cost
        '17 forward passes, shared among methods'
    """
    check_baseline(baseline)
    check_count("cells", cells)

    def measure(case: Case, patch_map: Tensor) -> Score:
        from scipy.stats import spearmanr  # takes two seconds

        values = check_map(patch_map, case.layout.grid)
        means, drops = values_and_drops(case, values, grid_regions(case.layout.grid, cells), baseline)
        for numbers, described in ((means, "value"), (drops, "drop of the score")):
            if numbers.min() == numbers.max():
                raise ValueError(f"not defined: all regions have the same {described}.")
        return Score(float(spearmanr(means, drops).statistic))

    return Metric(
        name=name,
        direction="higher",
        range=(-1.0, 1.0),
        source="Hesse et al., NeurIPS 2024, without fine-tuning the model on deletions",
        parameters={"baseline": baseline, "cells": cells, "score": "by `output`", "correlation": "Spearman"},
        needs=frozenset(),
        cost=f"{cells**2 + 1} forward passes, shared among methods",
        measure=measure,
    )
