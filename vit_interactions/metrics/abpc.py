"""Area between the perturbation curves: removing the least relevant first against removing the most relevant first.

Source: Samek et al., Evaluating the Visualization of What a Deep Neural Network Has Learned, TNNLS 2017, Sec. III;
Leem and Seo, Attention Guided CAM, AAAI 2024 (mean colour). They take the mean of the differences at all levels; the
trapezoid rule, used here, differs from it by the factor (steps + 1) / steps, as both ends' differences are 0.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.area_metric import removal_parameters
from vit_interactions.metrics.baseline import check_baseline
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.pixel_scores import pixel_scores
from vit_interactions.metrics.removal import area, deletion_curve, least_first_curve
from vit_interactions.utilities.checks import check_count


def abpc(baseline: str = "mean", steps: int = 20, *, name: str = "abpc") -> Metric:
    """Make the metric: the area between the two curves, LeRF - MoRF.

    With the same baseline and steps as `deletion`'s, one of the curves has been computed already.

    Args:
        baseline: what replaces removed patches: "blur", "mean" or "zero".
        steps: into how many the patches are divided.
        name: what tables call it.

    Returns:
        Of its score's curve, (share of the patches that is removed, LeRF - MoRF).

    Example:
        >>> abpc().range
        (-1.0, 1.0)
    """
    check_baseline(baseline)
    check_count("steps", steps)

    def measure(case: Case, patch_map: Tensor) -> Score:
        ranks = relevance_ranks(check_map(patch_map, case.layout.grid), case.seed)

        def ask(shown: Tensor) -> Tensor:
            return pixel_scores(case, shown, baseline)

        most, least = deletion_curve(ranks, steps, ask), least_first_curve(ranks, steps, ask)
        curve = torch.stack([most[:, 0], least[:, 1] - most[:, 1]], dim=1)
        return Score(area(curve), curve)

    return Metric(
        name=name,
        direction="higher",
        range=(-1.0, 1.0),
        source="Samek et al., TNNLS 2017; Leem and Seo, Attention Guided CAM, AAAI 2024",
        parameters=removal_parameters(baseline, steps),
        needs=frozenset(),
        cost=f"{2 * steps} forward passes, {steps - 1} where deletion has been measured",
        measure=measure,
    )
