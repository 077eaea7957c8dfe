"""Energy in box, or in mask: which share of the map lies on the object?

Source: Wang et al., Score-CAM, CVPR Workshops 2020, Sec. 4.4 (energy-based pointing game).
"""

from torch import Tensor

from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.object import check_object
from vit_interactions.metrics.patch_map import check_map


def energy_in_box(patch_map: Tensor, inside: Tensor) -> float:
    """Compute the share of the map's sum that lies inside, once the map is shifted to start at 0.

    Args:
        patch_map: (rows, cols), not constant; any scale and sign.
        inside: (rows, cols) bool.

    Returns:
        In [0, 1]. A random map gives about the share of the patches that are inside.

    Example:
        >>> import torch
        >>> energy_in_box(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([[True, False, True]]))
        0.75
    """
    mass = patch_map - patch_map.min()
    return float(mass[inside].sum() / mass.sum())


def _measure(case: Case, patch_map: Tensor) -> Score:
    return Score(energy_in_box(check_map(patch_map, case.layout.grid), check_object(case)))


ENERGY_IN_BOX = Metric(
    name="energy_in_box",
    direction="higher",
    range=(0.0, 1.0),
    source="Wang et al., Score-CAM, CVPR Workshops 2020",
    parameters={"scale": "map minus its minimum"},
    needs=frozenset({"object"}),
    cost="no forward pass",
    measure=_measure,
)
