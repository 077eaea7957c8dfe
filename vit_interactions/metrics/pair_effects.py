"""Pair effects of one image: the score's second differences while the tokens of patches are masked."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from vit_interactions.functional.pair_effects import (
    PairEffects,
    Weighting,
    draw_contexts,
    second_differences,
)
from vit_interactions.metrics.metric import Case
from vit_interactions.metrics.token_scores import token_scores
from vit_interactions.utilities.checks import check_choice

PairScore = Literal["log_odds", "probability"]
PAIR_SCORES: tuple[PairScore, ...] = ("log_odds", "probability")
LEAST = 1e-15  # probability; keeps log-odds finite


def pair_effects(
    case: Case,
    pairs: Tensor,
    contexts: int = 12,
    *,
    weighting: Weighting = "banzhaf",
    score: PairScore = "log_odds",
) -> PairEffects:
    """Measure how much pairs of patches interact in the model's score of the target class.

    Args:
        case: case with the image, the model and the seed of the contexts.
        pairs: (pairs, 2) integers, two different patches each, in row-major order; see `choose_pairs`.
        contexts: number of random contexts.
        weighting: distribution of the contexts, see `draw_contexts`.
        score: "log_odds" of the probability of the target class, in which independent evidence adds up, or
            "probability". The value of a regression model is used unchanged.

    Returns:
        The effects. They cost `contexts` x (1 + patches in any pair + pairs) forward passes.

    Raises:
        UnsupportedModelError: see `token_scores`.
        ValueError: an argument outside its range.
    """
    check_choice("score", score, PAIR_SCORES)
    generator = torch.Generator().manual_seed(case.seed)
    drawn = draw_contexts(contexts, case.layout.patches, weighting, generator=generator)

    link = case.link

    def scored(shown: Tensor) -> Tensor:
        # Its own cache: no method or metric needs the same masks again.
        own = replace(case, scores={}, output=link)
        values = token_scores(own, shown.view(-1, *case.layout.grid))
        return values if score == "probability" or link == "value" else values.logit(LEAST)

    return second_differences(scored, drawn, pairs)
