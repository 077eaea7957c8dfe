"""Scores of a target while the tokens of some patches are masked in all attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.observe import Observation
from vit_interactions.attention.probing.request import as_arguments
from vit_interactions.attention.token_masking import TokenMasking
from vit_interactions.explain.targets import select_rows
from vit_interactions.functional.attention import at_least_float32

ROWS = 32  # images per forward pass: small enough for any device that could train the model


@torch.no_grad()
def masked_scores(
    model: nn.Module,
    inputs: Tensor,
    additional_forward_args: Any,
    seen: Observation,
    shown: Tensor,
    score: Callable[[Any], Tensor],
) -> Tensor:
    """Score images under several masks, many in one forward pass.

    Args:
        model: an unwrapped model; it is not modified.
        inputs: (batch, channels, height, width).
        additional_forward_args: further arguments of the model; tensors with one row per image are repeated.
        seen: a pass of the model for `inputs` without masks.
        shown: (masks, batch, patches) bool, False for patches to mask.
        score: computes (batch,) scores from the output for the images, in their order.

    Returns:
        (masks, batch), at least float32.

    Raises:
        UnsupportedModelError: attention that cannot be masked, or an output read from the patches in another way than
            by one average; see `TokenMasking`.
        ValueError: scores that are not finite.
    """
    name, batch = type(model).__name__, len(inputs)
    scores = []
    for masks in torch.split(shown, max(ROWS // batch, 1)):
        repeats = len(masks)
        arguments = (
            argument.repeat(repeats, *[1] * (argument.ndim - 1)) if _has_rows(argument, batch) else argument
            for argument in as_arguments(additional_forward_args)
        )
        masking = TokenMasking(masks.flatten(0, 1).to(inputs.device), seen, name)
        with masking, evaluation_mode(model) as own:
            output = own(inputs.repeat(repeats, 1, 1, 1), *arguments)
        # One row per image at a time, because a target may name a class for each image.
        rows = (slice(start, start + batch) for start in range(0, repeats * batch, batch))
        found = torch.stack([at_least_float32(score(select_rows(output, row))) for row in rows])
        masking.finish(found)
        scores.append(found)
    return torch.cat(scores)


def _has_rows(argument: Any, batch: int) -> bool:
    return isinstance(argument, Tensor) and argument.shape[:1] == (batch,)
