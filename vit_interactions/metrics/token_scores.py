"""Scores of images in which the tokens of some patches are masked in all attention."""

from torch import Tensor

from vit_interactions.attention.observe import observe
from vit_interactions.attention.readable import readable
from vit_interactions.attention.token_masking import TokenMasking
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.metrics.class_score import cached_scores, unchecked_score
from vit_interactions.metrics.metric import Case


def token_scores(case: Case, shown: Tensor) -> Tensor:
    """Compute the score of the target class with the tokens of some patches masked.

    Args:
        case: case with the image and the model.
        shown: (images, rows, cols) bool.

    Returns:
        (images,) float64.

    Raises:
        UnsupportedModelError: attention that cannot be read or is not among all tokens; an output read from the patches
            in another way than by one average; no token left to attend to.
        ValueError: scores that are not finite.
    """
    model = unwrap(case.model)
    seen = observe(model, case.inputs, None, lambda call, layout: None)
    _ = case.link  # may run the model, so before tokens are masked

    def score(shown: Tensor) -> Tensor:
        repeated = case.inputs.expand(len(shown), -1, -1, -1)
        masking = TokenMasking(shown.flatten(1).to(case.inputs.device), seen, type(model).__name__)
        with readable(model), masking:
            scores = unchecked_score(case, repeated)
        masking.finish(scores)
        return scores

    return cached_scores(case, "tokens", shown, score)
