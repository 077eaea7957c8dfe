"""Infidelity: does the sum of the map over removed patches predict how far the class score drops?

Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, Def. 2.1, computed by captum.
"""

import torch
from captum.metrics import infidelity as captum_infidelity
from torch import Tensor

from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.perturbation_curves import patch_count
from vit_interactions.metrics.pixel_scores import pixel_scores
from vit_interactions.utilities.checks import check_count, check_fraction


def draw_subsets(samples: int, grid: tuple[int, int], fraction: float, seed: int) -> Tensor:
    """Draw random subsets of the patches, all of the same size.

    With subsets of different sizes, even a constant map would score well, because removing more patches lowers the
    score more.

    Args:
        samples: number of subsets.
        grid: (rows, cols).
        fraction: fraction of the patches in each subset; at least one patch, and not all.
        seed: random seed.

    Returns:
        (samples, rows, cols) bool.

    Example:
        >>> draw_subsets(3, (2, 2), 0.25, seed=0).sum((1, 2))
        tensor([1, 1, 1])
    """
    patches = grid[0] * grid[1]
    drawn = torch.rand(samples, patches, generator=torch.Generator().manual_seed(seed), device="cpu")
    return (drawn.argsort(1).argsort(1) < patch_count(fraction, patches)).reshape(samples, *grid)


def infidelity(
    baseline: str = "mean", fraction: float = 0.2, samples: int = 50, *, name: str = "infidelity"
) -> Metric:
    """Create the metric: E (β Σ map over removed patches - drop of the score)², captum's with `normalize=True`.

    Maps have no absolute scale, so β is the factor that minimizes the error. It may be negative: a map and its negative
    get the same value, so a low value shows that the map predicts the drops up to their sign. Perturbations are 1 at
    removed patches and 0 elsewhere, as captum recommends for maps that are not gradients.

    Args:
        baseline: replacement of removed patches: "blur", "mean" or "zero".
        fraction: fraction of the patches removed in each subset.
        samples: number of subsets of patches.
        name: name in tables.

    Example:
        >>> infidelity().direction
        'lower'
    """
    check_baseline(baseline)
    check_fraction("fraction", fraction)
    check_count("samples", samples)

    def measure(case: Case, patch_map: Tensor) -> Score:
        values = check_map(patch_map, case.layout.grid)
        removed = draw_subsets(samples, case.layout.grid, fraction, case.seed)

        def scores(marks: Tensor) -> Tensor:
            return pixel_scores(case, marks[:, 0] == 0, baseline)

        # For captum, patches are the features: the image is all zeros, and a removed patch is marked with 1.
        whole = torch.zeros(1, 1, *case.layout.grid, dtype=torch.float64, device="cpu")
        marks = removed.unsqueeze(1).double()
        error = captum_infidelity(
            scores,
            lambda _: (marks, marks),
            whole,
            values[None, None],
            n_perturb_samples=samples,
            normalize=True,
        )
        return Score(float(error))

    return Metric(
        name=name,
        direction="lower",
        range=(0.0, 1.0),
        source="Yeh et al., NeurIPS 2019; captum.metrics.infidelity",
        parameters={
            "baseline": baseline,
            "fraction": fraction,
            "samples": samples,
            "unit": "patch",
            "score": "by `output`",
            "normalize": True,
        },
        needs=frozenset(),
        cost=f"{samples + 1} forward passes, shared among methods",
        measure=measure,
    )
