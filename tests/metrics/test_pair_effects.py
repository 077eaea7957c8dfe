"""Pair effects of models whose interactions are known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.families import FAMILIES
from tests.helpers.token_cases import case_of
from vit_interactions.functional.pair_effects import draw_contexts
from vit_interactions.metrics.pair_effects import pair_effects
from vit_interactions.metrics.token_scores import token_scores


@pytest.mark.parametrize("score", ["log_odds", "probability"])
def test_each_term_is_the_score_with_other_tokens_masked(score: Any) -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build().double(), family.images().double(), seed=4)
    pairs = torch.tensor([[0, 1], [5, 2]])
    effects = pair_effects(case, pairs, 3, score=score)
    contexts = draw_contexts(3, case.layout.patches, generator=torch.Generator().manual_seed(4))

    def f(context: Tensor, shown: list[int], pair: list[int]) -> float:
        subset = context.clone()
        subset[pair] = False
        subset[shown] = True
        value = token_scores(case, subset.view(1, *case.layout.grid))
        return float((value / (1 - value)).log() if score == "log_odds" else value)

    for number, (i, j) in enumerate(pairs.tolist()):
        for column, context in enumerate(contexts):
            single = f(context, [i], [i, j]) + f(context, [j], [i, j])
            expected = f(context, [i, j], [i, j]) - single + f(context, [], [i, j])
            assert float(effects.differences[number, column]) == pytest.approx(expected, abs=1e-10)
    assert effects.passes == 3 * (1 + 4 + 2)
    assert float(effects.strength.min()) > 1e-6
    assert torch.equal(effects.differences, pair_effects(case, pairs, 3, score=score).differences)


def test_the_cache_of_the_case_is_left_alone() -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build(), family.images())
    pair_effects(case, torch.tensor([[0, 1]]), 1)
    assert not case.scores


def test_arguments() -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build(), family.images())
    with pytest.raises(ValueError, match="`score` must be one of 'log_odds', 'probability', got 'logit'"):
        pair_effects(case, torch.tensor([[0, 1]]), score="logit")  # type: ignore[arg-type]
