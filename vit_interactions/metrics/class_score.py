"""The model's score of the target class, computed once per image."""

from collections.abc import Callable

import torch
from torch import Tensor

from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.explain.targets import select_target
from vit_interactions.functional.scores import class_outputs, class_scores
from vit_interactions.metrics.metric import Case

# Images per forward pass: small enough for any device that could train the model.
CHUNK = 16


def class_score(case: Case, images: Tensor) -> Tensor:
    """Compute the score of the case's target for each image, with the link function of the model's head.

    Args:
        case: case with the model, which runs in eval mode.
        images: (batch, channels, height, width).

    Returns:
        (batch,) float64 on the CPU: probabilities, or values if `Case.link` is "value".

    Raises:
        ValueError: an output that is neither (batch, classes) nor (batch,), is not finite, or does not fit
            `Case.output`.
        IndexError: a target that the output does not have.
    """
    scores = unchecked_score(case, images)
    if not scores.isfinite().all():
        raise ValueError("the model's output for a perturbed image is not finite.")
    return scores


def unchecked_score(case: Case, images: Tensor) -> Tensor:
    """Compute the scores of `class_score`, which may be NaN or infinite."""
    with torch.no_grad(), evaluation_mode(case.model) as model:
        outputs = class_outputs(model(images), len(images))
    return select_target(class_scores(outputs, case.link), case.target)


def cached_scores(case: Case, kind: str, shown: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Look up the scores of perturbed images, and compute the missing ones in chunks.

    Args:
        case: case whose `scores` are the cache.
        kind: how the images are perturbed; part of the cache key.
        shown: (images, rows, cols), how much of each patch is shown, from 0 or False to 1 or True.
        score: computes (chunk,) scores from a chunk of `shown`.

    Returns:
        (images,) float64.
    """
    # An image that is fully shown is the original, whatever the perturbation.
    keys = [("" if (one == 1).all() else kind, one.double().numpy().tobytes()) for one in shown]
    new = list({key: index for index, key in enumerate(keys) if key not in case.scores}.values())
    for start in range(0, len(new), CHUNK):
        chunk = new[start : start + CHUNK]
        case.scores.update(zip([keys[index] for index in chunk], score(shown[chunk]).tolist(), strict=True))
    return torch.tensor([case.scores[key] for key in keys], dtype=torch.float64, device="cpu")
