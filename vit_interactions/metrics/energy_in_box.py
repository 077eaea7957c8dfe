"""Energy in box, or in mask: what fraction of the map lies on the object?

Source: Wang et al., Score-CAM, CVPR Workshops 2020, Sec. 4.4 (energy-based pointing game).
"""

from torch import Tensor

from vit_interactions.metrics.localization_metric import localization_metric


def energy_in_box(patch_map: Tensor, inside: Tensor) -> float:
    """Compute the fraction of the map's sum that lies inside, after shifting the map's minimum to 0.

    Args:
        patch_map: (rows, cols), not constant; any scale and sign.
        inside: (rows, cols) bool.

    Returns:
        Value in [0, 1]. A random map scores about the fraction of the patches that are inside.

    Example:
        >>> import torch
        >>> energy_in_box(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([[True, False, True]]))
        0.75
    """
    mass = patch_map - patch_map.min()
    return float(mass[inside].sum() / mass.sum())


ENERGY_IN_BOX = localization_metric(
    "energy_in_box",
    energy_in_box,
    source="Wang et al., Score-CAM, CVPR Workshops 2020",
    parameters={"scale": "map minus its minimum"},
)
