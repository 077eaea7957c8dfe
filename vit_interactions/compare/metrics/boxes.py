"""The boxes that a case must have for the metrics of localisation."""

from torch import Tensor

from vit_interactions.compare.metrics.metric import Case


def check_boxes(case: Case) -> Tensor:
    """Return the marks (rows, cols) bool of the patches in the object's boxes, on the CPU.

    Raises:
        ValueError: no boxes, or boxes that hold no patch's centre.
    """
    if case.inside is None:
        raise ValueError("needs boxes of the object, but this photograph has none of the explained class.")
    if not case.inside.any():
        raise ValueError("the object's boxes hold the centre of no patch, so that no map could point at it.")
    return case.inside.bool().cpu()
