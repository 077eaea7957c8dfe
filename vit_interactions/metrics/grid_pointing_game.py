"""Grid pointing game: what fraction of a mosaic's positive attribution lies in the quadrant of the target class?

Source: Böhle, Fritz and Schiele, Convolutional Dynamic Alignment Networks for Interpretable Classifications, CVPR 2021
(arXiv 2104.00032). They explain each class of a mosaic in turn, and average. Here a mosaic has four images of four
classes, and one of the classes is the target. A mosaic needs no annotated boxes: whoever makes it knows the quadrant,
and passes it as the box of the target class.
"""

import torch
from torch import Tensor

from vit_interactions.metrics.localization_metric import localization_metric


def grid_pointing_game(patch_map: Tensor, inside: Tensor) -> float:
    """Compute the sum of the positive values inside over the sum of all positive values.

    Args:
        patch_map: (rows, cols); negative values do not count.
        inside: (rows, cols) bool, one quadrant of the mosaic. The middle row or column of an odd number of patches may
            count or not.

    Returns:
        Value in [0, 1]. A random map scores about 0.25.

    Raises:
        ValueError: `inside` is not a quadrant, so the image is not a mosaic; or a map without positive values.

    Example:
        >>> inside = torch.tensor([[True, False], [False, False]])
        >>> grid_pointing_game(torch.tensor([[3.0, 1.0], [-4.0, 0.0]]), inside)
        0.75
    """
    if not _is_quadrant(inside):
        raise ValueError(
            "not defined: the object must fill exactly one quadrant, as in a mosaic of four images. Use "
            "`energy_in_box` for boxes in ordinary images."
        )
    positive = patch_map.clamp(min=0)
    if not positive.any():
        raise ValueError("not defined: the map has no positive value.")
    return float(positive[inside].sum() / positive.sum())


def _is_quadrant(inside: Tensor) -> bool:
    """Return whether the marks are a rectangle in one corner with half of the rows and half of the columns."""
    rows, cols = inside.any(1), inside.any(0)
    rectangle = torch.equal(inside, rows[:, None] & cols)
    return rectangle and all(_is_half(marks) for marks in (rows, cols))


def _is_half(marks: Tensor) -> bool:
    size, count = len(marks), int(marks.sum())
    # An odd middle is on neither side, so its patch centers lie on the border of two images.
    return count in (size // 2, (size + 1) // 2) and bool(marks[:count].all() or marks[size - count :].all())


GRID_POINTING_GAME = localization_metric(
    "grid_pointing_game",
    grid_pointing_game,
    source="Böhle et al., Convolutional Dynamic Alignment Networks, CVPR 2021",
    parameters={"mosaic": "2 x 2", "values": "positive"},
)
