"""The object's patches, which a case must have for the metrics of localisation."""

from torch import Tensor

from vit_interactions.metrics.metric import Case


def check_object(case: Case) -> Tensor:
    """Return the marks (rows, cols) bool of the patches on the object, on the CPU.

    Raises:
        ValueError: it is not known where the object is, or it holds no patch.
    """
    if case.inside is None:
        raise ValueError("needs to know where the object is (boxes or a mask), but the case has no `inside`.")
    if not case.inside.any():
        raise ValueError("the object holds no patch (its centre in a box, or half of it in the mask).")
    return case.inside.bool().cpu()
