"""Infidelity: does the sum of the map over removed patches tell how far the class's score falls?

Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, Def. 2.1, by captum.
"""

import torch
from captum.metrics import infidelity as captum_infidelity
from torch import Tensor

from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.pixel_scores import pixel_scores
from vit_interactions.utilities.checks import check_count, check_fraction


def draw_subsets(samples: int, grid: tuple[int, int], share: float, seed: int) -> Tensor:
    """Draw subsets of the patches, all of the same size.

    Of the same size, since among subsets of all sizes a map that says the same of every patch does well: more patches,
    larger fall.

    Args:
        samples: how many subsets.
        grid: (rows, cols).
        share: of the patches that is in each; at least one patch, and not all.
        seed: of the draw.

    Returns:
        (samples, rows, cols) bool.

    Example:
        >>> draw_subsets(3, (2, 2), 0.25, seed=0).sum((1, 2))
        tensor([1, 1, 1])
    """
    patches = grid[0] * grid[1]
    size = min(max(round(share * patches), 1), patches - 1)
    drawn = torch.rand(samples, patches, generator=torch.Generator().manual_seed(seed), device="cpu")
    return (drawn.argsort(1).argsort(1) < size).reshape(samples, *grid)


def infidelity(
    baseline: str = "mean", share: float = 0.2, samples: int = 50, *, name: str = "infidelity"
) -> Metric:
    """Make the metric: E (β Σ map over removed patches - fall of the score)², captum's with `normalize=True`.

    β is the factor that makes it least, since maps have no scale of their own. It may be negative: a map and its
    negative get the same value, so that a low one says that the map tells the falls, not that it tells their sign.
    Perturbations are 1 at removed patches and 0 elsewhere, as captum has it for maps that are no gradients.

    Args:
        baseline: what replaces removed patches: "blur", "mean" or "zero".
        share: of the patches that is removed each time.
        samples: how many subsets of patches are removed.
        name: what tables call it.

    Example:
        >>> infidelity().direction
        'lower'
    """
    check_baseline(baseline)
    check_fraction("share", share)
    check_count("samples", samples)

    def measure(case: Case, patch_map: Tensor) -> Score:
        values = check_map(patch_map, case.layout.grid)
        removed = draw_subsets(samples, case.layout.grid, share, case.seed)

        def scores(marks: Tensor) -> Tensor:
            return pixel_scores(case, marks[:, 0] == 0, baseline)

        # To captum the patches are the features: the photograph is all of them, marked 0, and 1 marks a removed one.
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
            "share": share,
            "samples": samples,
            "unit": "patch",
            "score": "by `output`",
            "normalize": True,
        },
        needs=frozenset(),
        cost=f"{samples + 1} forward passes, shared among methods",
        measure=measure,
    )
