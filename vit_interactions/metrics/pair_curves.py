"""Second-order insertion and deletion: the score of sets of patches that a pair map puts together.

Source: FIxLIP, NeurIPS 2025, see `functional.pair_order`. As there, deletion keeps the patches whose pairs have the
smallest sum. The score is the probability of the class instead of the similarity of a text, and areas are not divided
by the range of the scores, like those of the first-order curves.
"""

import torch
from torch import Tensor

from vit_interactions.functional.pair_order import greedy_pair_order
from vit_interactions.metrics.metric import Case
from vit_interactions.metrics.perturbation_curves import area_under_curve, patch_counts
from vit_interactions.metrics.token_scores import token_scores
from vit_interactions.utilities.checks import check_count


def pair_curves(case: Case, pair_map: Tensor, steps: int = 10) -> Tensor:
    """Compute the scores of growing sets of patches, whose pairs have the largest and the smallest sum.

    All other patches are removed by masking their tokens.

    Args:
        case: case with the image, the model and the seed of ties. Its cache of scores is used, so cases of the same
            image can share the passes of no patch and of all.
        pair_map: (patches, patches), patches in row-major order.
        steps: number of steps of the size of the sets.

    Returns:
        (points, 3) float64: fraction of the patches shown, score of the set with the largest sum (insertion), and of
        that with the smallest sum (deletion); steps + 1 points, or fewer if there are fewer patches. They cost
        2 (points - 2) forward passes, and two that all maps share.

    Raises:
        UnsupportedModelError: see `token_scores`.
        ValueError: a map of another shape, or one that is not finite.
    """
    check_count("steps", steps)
    patches = case.layout.patches
    if tuple(pair_map.shape) != (patches, patches):
        raise ValueError(f"`pair_map` must have shape {(patches, patches)}, got {tuple(pair_map.shape)}.")
    orders = [greedy_pair_order(pair_map, lowest=lowest, seed=case.seed) for lowest in (False, True)]
    counts = patch_counts(patches, steps)
    shown = torch.stack(orders).argsort()[:, None] < counts[:, None]
    scores = token_scores(case, shown.view(-1, *case.layout.grid)).view(2, -1)
    return torch.stack([counts.double() / patches, *scores], 1)


def pair_areas(curves: Tensor) -> dict[str, float]:
    """Compute the areas under the curves.

    Args:
        curves: (points, 3), from `pair_curves`.

    Returns:
        "pair_insertion", in [0, 1] for probabilities, higher is better; "pair_deletion", in [0, 1], lower is better;
        and "pair_area", the area between both curves, in [-1, 1], higher is better.

    Example:
        >>> pair_areas(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.75, 0.25], [1.0, 1.0, 1.0]]))
        {'pair_insertion': 0.625, 'pair_deletion': 0.375, 'pair_area': 0.25}
    """
    insertion, deletion = (area_under_curve(curves[:, [0, column]]) for column in (1, 2))
    return {"pair_insertion": insertion, "pair_deletion": deletion, "pair_area": insertion - deletion}
