"""Normalized AOPC: deletion between the worst and the best order of the patches, for comparisons across models.

Source: Edin et al., Normalized AOPC: Fixing Misleading Faithfulness Metrics for Feature Attribution Explainability,
arXiv 2408.08137, 2024. The area over the perturbation curve that any order can reach differs between models and
images, so raw areas do not compare models. They scale it by its lowest and highest value over all orders, found exactly
or by beam search. Here a greedy search removes several patches per round, because an image has many more patches than a
text has words. A map may beat the search, so values can leave [0, 1].

They average the drops over all steps. The trapezoidal rule, used here, differs by the same constant for every order, so
the normalized value is the same.
"""

from itertools import pairwise

import torch
from torch import Tensor

from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.perturbation_curves import (
    ScorePatches,
    area_under_curve,
    deletion_curve,
    patch_counts,
)
from vit_interactions.metrics.pixel_scores import pixel_scores
from vit_interactions.utilities.checks import check_count


def greedy_ranks(grid: tuple[int, int], rounds: int, score: ScorePatches, *, lowest: bool) -> Tensor:
    """Search for the order of removal with the lowest or highest area under the deletion curve.

    Each round scores the removal of each single patch that is left, and removes the best ones, all rounds the same
    number. With as many rounds as patches, one patch is removed at a time.

    Args:
        grid: (rows, cols).
        rounds: number of rounds.
        score: computes (images,) scores from the patches that are shown, (images, rows, cols) bool.
        lowest: whether removal should lower the score, or raise it.

    Returns:
        (rows, cols) int64, 0 is removed first.

    Example:
        >>> greedy_ranks((1, 3), 3, lambda shown: shown[:, 0].float() @ torch.tensor([1.0, 3.0, 2.0]), lowest=True)
        tensor([[2, 0, 1]])
    """
    counts = patch_counts(grid[0] * grid[1], rounds).tolist()
    order: list[int] = []
    shown = torch.ones(grid[0] * grid[1], dtype=torch.bool, device="cpu")
    for removed, then in pairwise(counts):
        left = shown.nonzero().flatten()
        without = shown.repeat(len(left), 1)
        without[range(len(left)), left] = False
        scores = score(without.view(-1, *grid))
        chosen = left[scores.argsort(stable=True, descending=not lowest)[: then - removed]]
        shown[chosen] = False
        order += chosen.tolist()
    return torch.tensor(order, device="cpu").argsort().reshape(grid)


def normalized_aopc(
    baseline: str = "mean", steps: int = 20, rounds: int = 5, *, name: str = "normalized_aopc"
) -> Metric:
    """Create the metric: (highest area - area) / (highest area - lowest area) under the deletion curve.

    Args:
        baseline: replacement of removed patches: "blur", "mean" or "zero".
        steps: number of steps in which the patches are removed.
        rounds: rounds of the search for the lowest and for the highest area.
        name: name in tables.

    Returns:
        The metric: 1 for the best order that was found, 0 for the worst. It raises ValueError if both have the same
        area.

    Example:
        >>> normalized_aopc(rounds=3).cost
        'about 3 forward passes per patch and 38, shared among methods, and 21, shared with deletion'
    """
    check_baseline(baseline)
    check_count("steps", steps)
    check_count("rounds", rounds)

    def measure(case: Case, patch_map: Tensor) -> Score:
        def score(shown: Tensor) -> Tensor:
            return pixel_scores(case, shown, baseline)

        def area(ranks: Tensor) -> float:
            return area_under_curve(deletion_curve(ranks, steps, score))

        own = area(relevance_ranks(check_map(patch_map, case.layout.grid), case.seed))
        low, high = (
            area(greedy_ranks(case.layout.grid, rounds, score, lowest=lowest)) for lowest in (True, False)
        )
        if low == high:
            raise ValueError("not defined: every order of removal gives the same area.")
        return Score((high - own) / (high - low))

    return Metric(
        name=name,
        direction="higher",
        range=(-float("inf"), float("inf")),
        source="Edin et al., Normalized AOPC, arXiv 2408.08137, with a greedy search",
        parameters={
            "baseline": baseline,
            "unit": "patch",
            "steps": steps,
            "rounds": rounds,
            "score": "by `output`",
            "ties": "seeded",
        },
        needs=frozenset(),
        cost=f"about {rounds} forward passes per patch and {2 * steps - 2}, shared among methods, and {steps + 1}, "
        "shared with deletion",
        measure=measure,
    )
