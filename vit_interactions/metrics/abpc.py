"""Area between perturbation curves: remove the least relevant patches first, or the most relevant first.

It is also known as the symmetric relevance gain (SRG): Blücher, Vielhaben and Strodthoff, Decoupling Pixel Flipping and
Occlusion Strategy for Consistent XAI Benchmarks, TMLR 2024 (arXiv 2401.06654). They recommend it because it ranks
methods more consistently than either curve, whatever replaces the removed patches.

Source: Samek et al., Evaluating the Visualization of What a Deep Neural Network Has Learned, TNNLS 2017, Sec. III;
Leem and Seo, Attention Guided CAM, AAAI 2024 (mean color). They average the differences over all levels. The
trapezoidal rule, used here, differs by the factor (steps + 1) / steps, since the differences at both ends are 0.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.metric import Metric
from vit_interactions.metrics.perturbation_curves import ScorePatches, deletion_curve, lerf_curve
from vit_interactions.metrics.perturbation_metric import pixel_metric


def abpc(baseline: str = "mean", steps: int = 20, *, name: str = "abpc") -> Metric:
    """Create the metric: area between the two curves, LeRF - MoRF.

    With the baseline and steps of `deletion`, one of the curves is already computed if deletion is measured too.

    Args:
        baseline: replacement of removed patches: "blur", "mean" or "zero".
        steps: number of steps in which the patches are removed.
        name: name in tables.

    Returns:
        The metric; the curve of its score is (fraction of the patches removed, LeRF - MoRF).

    Example:
        >>> abpc().range
        (-1.0, 1.0)
    """
    return pixel_metric(
        name,
        "higher",
        baseline,
        steps,
        _difference,
        source="Samek et al., TNNLS 2017; Blücher et al., symmetric relevance gain, TMLR 2024",
        cost=f"{2 * steps} forward passes, {steps - 1} if deletion is measured too",
        lowest=-1.0,
    )


def _difference(ranks: Tensor, steps: int, score: ScorePatches) -> Tensor:
    morf, lerf = deletion_curve(ranks, steps, score), lerf_curve(ranks, steps, score)
    return torch.stack([morf[:, 0], lerf[:, 1] - morf[:, 1]], dim=1)
