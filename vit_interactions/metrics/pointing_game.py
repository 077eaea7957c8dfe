"""Pointing game: does the highest patch lie on the object?

Source: Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018, Sec. 4.2, without its tolerance of 15
pixels, which is about one patch.
"""

from torch import Tensor

from vit_interactions.metrics.localization_metric import localization_metric


def pointing_game(patch_map: Tensor, inside: Tensor) -> float:
    """Compute the probability that a randomly chosen highest patch lies inside.

    Args:
        patch_map: (rows, cols).
        inside: (rows, cols) bool.

    Returns:
        1 or 0; if several patches share the highest value, the fraction of them that lie inside.

    Example:
        >>> import torch
        >>> pointing_game(torch.tensor([[3.0, 3.0, 1.0]]), torch.tensor([[True, False, False]]))
        0.5
    """
    return float(inside[patch_map == patch_map.max()].double().mean())


POINTING_GAME = localization_metric(
    "pointing_game",
    pointing_game,
    source="Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018",
    parameters={"hit": "highest patch on the object; the fraction of ties that are on it"},
)
