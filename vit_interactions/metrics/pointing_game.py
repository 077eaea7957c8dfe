"""Pointing game: does the highest patch lie on the object?

Source: Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018, Sec. 4.2, without its tolerance of 15
pixels, which is about one patch.
"""

from torch import Tensor

from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.object import check_object
from vit_interactions.metrics.patch_map import check_map


def pointing_game(patch_map: Tensor, inside: Tensor) -> float:
    """Compute the chance that the highest patch lies inside.

    Args:
        patch_map: (rows, cols).
        inside: (rows, cols) bool.

    Returns:
        1 or 0; where several patches share the highest value, the share of them that lies inside.

    Example:
        >>> import torch
        >>> pointing_game(torch.tensor([[3.0, 3.0, 1.0]]), torch.tensor([[True, False, False]]))
        0.5
    """
    return float(inside[patch_map == patch_map.max()].double().mean())


def _measure(case: Case, patch_map: Tensor) -> Score:
    return Score(pointing_game(check_map(patch_map, case.layout.grid), check_object(case)))


POINTING_GAME = Metric(
    name="pointing_game",
    direction="higher",
    range=(0.0, 1.0),
    source="Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018",
    parameters={"hit": "highest patch on the object; of several highest, the share"},
    needs=frozenset({"object"}),
    cost="no forward pass",
    measure=_measure,
)
