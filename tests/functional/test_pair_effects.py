"""Pair effects: by hand, against shapiq's exact indices, and the distribution of the contexts."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from scipy.special import beta
from torch import Tensor

from vit_interactions.functional.pair_effects import (
    WEIGHTINGS,
    Weighting,
    choose_pairs,
    draw_contexts,
    second_differences,
)

PATCHES = 10


def every_subset(patches: int) -> Tensor:
    """Return all subsets, (2 ** patches, patches) bool."""
    return (torch.arange(2**patches)[:, None] >> torch.arange(patches)) % 2 == 1


def game(shown: Tensor) -> Tensor:
    """Score subsets of ten patches by a nonlinear game whose patches all interact."""
    weights = torch.randn(PATCHES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return (shown.double() @ weights).sin().prod(1) + shown[:, 2].double() * shown[:, 7].double()


def probability(size: int, patches: int, weighting: Weighting) -> float:
    """Return the probability of one subset of a size: ∫ q^s (1 - q)^(n - s) of the density of q."""
    if weighting == "banzhaf":
        return 0.5**patches
    return 2 * float(beta(size + 1, patches - size + 2))


def test_four_terms_by_hand() -> None:
    table = {(0, 0): 1.0, (1, 0): 3.0, (0, 1): 4.0, (1, 1): 10.0}  # 10 - 3 - 4 + 1 = 4

    def score(shown: Tensor) -> Tensor:
        return torch.tensor([table[int(a), int(b)] for a, b, _ in shown.tolist()])

    effects = second_differences(score, every_subset(3), torch.tensor([[0, 1], [0, 2], [2, 1]]))
    assert (effects.differences[0] == 4.0).all()
    assert (effects.differences[1:] == 0.0).all()
    assert effects.index.tolist() == [4.0, 0.0, 0.0]
    assert effects.standard_error.tolist() == [0.0, 0.0, 0.0]
    assert effects.passes == 8 * (1 + 3 + 3)


def test_differences_follow_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    contexts = draw_contexts(6, PATCHES, generator=generator)
    pairs = torch.tensor(list(combinations(range(PATCHES), 2)))
    effects = second_differences(game, contexts, pairs)

    def f(subset: set[int]) -> float:
        shown = torch.zeros(1, PATCHES, dtype=torch.bool)
        shown[0, list(subset)] = True
        return float(game(shown))

    for number, (i, j) in enumerate(pairs.tolist()):
        for column, context in enumerate(contexts):
            rest = set(context.nonzero().flatten().tolist()) - {i, j}
            expected = f(rest | {i, j}) - f(rest | {i}) - f(rest | {j}) + f(rest)
            assert float(effects.differences[number, column]) == pytest.approx(expected, abs=1e-12)
    for number, patch in enumerate(effects.members.tolist()):
        for column, context in enumerate(contexts):
            rest = set(context.nonzero().flatten().tolist()) - {patch}
            gain = f(rest | {patch}) - f(rest)
            assert float(effects.gains[number, column]) == pytest.approx(gain, abs=1e-12)
    mean = dict(zip(effects.members.tolist(), effects.gains.mean(1).tolist(), strict=True))
    products = [abs(mean[i] * mean[j]) for i, j in pairs.tolist()]
    assert effects.first_order.tolist() == pytest.approx(products, abs=1e-12)
    square = effects.differences.square().mean(1)
    torch.testing.assert_close(effects.strength**2, square)
    spread = (effects.differences - effects.index[:, None]).square().sum(1) / (5 * 6)
    torch.testing.assert_close(effects.standard_error**2, spread)


@pytest.mark.parametrize(("weighting", "name"), [("banzhaf", "BII"), ("shapley_taylor", "STII")])
def test_enumerated_contexts_equal_shapiq(weighting: Weighting, name: str) -> None:
    shapiq = pytest.importorskip("shapiq")
    contexts = every_subset(PATCHES)
    pairs = torch.tensor(list(combinations(range(PATCHES), 2)))
    effects = second_differences(game, contexts, pairs)
    chance = torch.tensor([probability(int(s), PATCHES, weighting) for s in contexts.sum(1)], dtype=torch.float64)
    assert float(chance.sum()) == pytest.approx(1.0)
    exact = shapiq.ExactComputer(
        game=lambda coalitions: game(torch.from_numpy(np.atleast_2d(coalitions))).numpy(), n_players=PATCHES
    )(name, order=2)
    expected = [exact[(i, j)] for i, j in pairs.tolist()]
    torch.testing.assert_close(
        effects.differences @ chance, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_enumerated_contexts_equal_the_published_sums(weighting: Weighting) -> None:
    """Check against 2^(2-n) Σ Δ(S) (Banzhaf) and 2/n Σ Δ(S) / C(n-1, |S|) (Shapley-Taylor), S without the pair."""
    contexts, pair = every_subset(PATCHES), torch.tensor([[2, 5]])
    chance = torch.tensor([probability(int(s), PATCHES, weighting) for s in contexts.sum(1)], dtype=torch.float64)
    effects = second_differences(game, contexts, pair)
    total = 0.0
    for column, context in enumerate(contexts):
        if context[2] or context[5]:
            continue
        size = int(context.sum())
        weight = 0.5 ** (PATCHES - 2) if weighting == "banzhaf" else 2 / PATCHES / comb(PATCHES - 1, size)
        total += weight * float(effects.differences[0, column])
    assert float(effects.differences[0] @ chance) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_contexts_are_drawn_with_their_probabilities(weighting: Weighting) -> None:
    contexts = draw_contexts(20_000, 5, weighting, generator=torch.Generator().manual_seed(0))
    for size in range(6):
        expected = comb(5, size) * probability(size, 5, weighting)
        found = float((contexts.sum(1) == size).double().mean())
        assert found == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)
    torch.testing.assert_close(contexts.double().mean(0), contexts.double().mean().expand(5), atol=0.02, rtol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_planted_pair_comes_first(weighting: Weighting) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(PATCHES, dtype=torch.float64, generator=generator)

    def score(shown: Tensor) -> Tensor:
        present = shown.double()
        planted = 0.5 * present[:, 3] * present[:, 8] - 0.2 * present[:, 0] * present[:, 1]
        return present @ weights + planted

    contexts = draw_contexts(3, PATCHES, weighting, generator=generator)
    pairs = torch.tensor(list(combinations(range(PATCHES), 2)))
    effects = second_differences(score, contexts, pairs)
    assert pairs[effects.strength.argmax()].tolist() == [3, 8]
    planted = torch.zeros(len(pairs), dtype=torch.float64)
    planted[(pairs == torch.tensor([3, 8])).all(1)] = 0.5
    planted[(pairs == torch.tensor([0, 1])).all(1)] = -0.2
    torch.testing.assert_close(effects.index, planted, atol=1e-12, rtol=0)


def test_reliability_of_pure_and_of_no_noise() -> None:
    pairs = torch.tensor(list(combinations(range(PATCHES), 2)))
    strengths = torch.rand(PATCHES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def products(shown: Tensor) -> Tensor:
        weighted = shown * strengths
        return weighted.sum(1) ** 2

    contexts = draw_contexts(8, PATCHES, generator=torch.Generator().manual_seed(0))
    assert second_differences(products, contexts, pairs).reliability() == pytest.approx(1.0)
    noise = torch.Generator().manual_seed(2)
    effects = second_differences(lambda shown: torch.randn(len(shown), generator=noise), contexts, pairs)
    assert abs(effects.reliability()) < 0.35
    assert abs(effects.reliability([torch.arange(len(pairs))])) < 0.35
    known = second_differences(products, contexts, pairs)
    assert np.isnan(known.reliability([known.strength]))  # nothing is left to be reliable
    one = second_differences(products, contexts[:1], pairs)
    assert np.isnan(one.reliability())
    assert torch.isnan(one.standard_error).all()


@pytest.mark.parametrize("pairs", [[[0, 0]], [[0, 3]], [[-1, 0]]])
def test_pairs_must_be_different_patches_of_the_image(pairs: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"`pairs` must be two different patches in \[0, 2\]"):
        second_differences(lambda shown: shown.sum(1), torch.ones(1, 3, dtype=torch.bool), torch.tensor(pairs))


@pytest.mark.parametrize("grid", [(14, 14), (37, 37), (7, 8), (2, 2), (1, 5)])
def test_chosen_pairs(grid: tuple[int, int]) -> None:
    pairs = choose_pairs(grid, 80, generator=torch.Generator().manual_seed(0))
    patches = grid[0] * grid[1]
    assert len(pairs) == min(80, comb(patches, 2))
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(pairs.unique(dim=0)) == len(pairs)
    assert int(pairs.max()) < patches
    if patches > 100:
        rows, cols = pairs // grid[1], pairs % grid[1]
        apart = torch.maximum((rows[:, 0] - rows[:, 1]).abs(), (cols[:, 0] - cols[:, 1]).abs())
        assert int((apart <= 2).sum()) >= 40
        assert len(pairs.unique()) <= 40
