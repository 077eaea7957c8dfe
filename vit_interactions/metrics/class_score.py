"""The model's score of the class that is explained, asked once per image."""

from collections.abc import Callable

import torch
from torch import Tensor

from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.explain.targets import select_target
from vit_interactions.functional.scores import class_outputs, class_scores
from vit_interactions.metrics.metric import Case

# Images in one forward pass: a batch that fits wherever the model's own training did.
CHUNK = 16


def class_score(case: Case, images: Tensor) -> Tensor:
    """Compute the score of the case's target for each image, by the link of the model's head.

    Args:
        case: whose model is asked, in evaluation mode.
        images: (batch, channels, height, width).

    Returns:
        (batch,) float64 on the CPU: probabilities, or values where `Case.link` is "value".

    Raises:
        ValueError: an output that is neither (batch, classes) nor (batch,), or not finite, or that does not fit
            `Case.output`.
        IndexError: a target that the output does not have.
    """
    with torch.no_grad(), evaluation_mode(case.model) as model:
        outputs = class_outputs(model(images), len(images))
    scores = select_target(class_scores(outputs, case.link), case.target)
    if not scores.isfinite().all():
        raise ValueError("the model's output for a perturbed image is not finite.")
    return scores


def remembered(case: Case, kind: str, shown: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """Look up what the model said of images, and ask it in chunks for those that are new.

    Args:
        case: whose `scores` are read and filled.
        kind: how the images are made of what is shown.
        shown: (images, rows, cols), how much of each patch is shown: 1 or True wholly, 0 or False not at all.
        ask: computes (chunk,) from a chunk of `shown`.

    Returns:
        (images,) float64.
    """
    # Whatever would replace it, an image that is wholly shown is the photograph.
    keys = [("" if (one == 1).all() else kind, one.double().numpy().tobytes()) for one in shown]
    new = list({key: index for index, key in enumerate(keys) if key not in case.scores}.values())
    for start in range(0, len(new), CHUNK):
        chunk = new[start : start + CHUNK]
        case.scores.update(zip([keys[index] for index in chunk], ask(shown[chunk]).tolist(), strict=True))
    return torch.tensor([case.scores[key] for key in keys], dtype=torch.float64, device="cpu")
