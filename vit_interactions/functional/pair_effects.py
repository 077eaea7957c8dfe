"""Pair effects: how much two patches matter together, beyond what each of them matters alone.

The effect of patches i and j in a context S of other patches is the second difference of the score (Eq. 1)

    Δ_ij(S) = f(S + i + j) - f(S + i) - f(S + j) + f(S).

Averaged over random contexts it is an interaction index: the Banzhaf index (Grabisch and Roubens, "An axiomatic
approach to the concept of interaction among players in cooperative games", 1999) if every other patch is in S with
probability 1/2, or the Shapley-Taylor index of order 2 (Dhamdhere, Agarwal and Sundararajan, "The Shapley Taylor
Interaction Index", ICML 2020), whose weights are those of a probability q drawn from Beta(1, 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from vit_interactions.functional.pair_scores import rank_correlation
from vit_interactions.utilities.checks import check_choice, check_count
from vit_interactions.utilities.choices import Weighting as Weighting

WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)

SPLITS = 20  # random halves whose reliability is averaged
BLOCK, MEMBERS = 3, 4  # near pairs are those of 4 patches of a 3 x 3 block


@dataclass(frozen=True, eq=False)
class PairEffects:
    """Second differences of the score of one image.

    Attributes:
        pairs: (pairs, 2) int64, the patches i and j of each pair.
        differences: (pairs, contexts) float64, Δ_ij(S) per context.
        members: (members,) int64, all patches of the pairs, in ascending order.
        gains: (members, contexts) float64, f(S + i) - f(S) per context, with S without i.
        passes: number of distinct masked images that were scored.
    """

    pairs: Tensor
    differences: Tensor
    members: Tensor
    gains: Tensor
    passes: int

    @property
    def index(self) -> Tensor:
        """The interaction index (pairs,), the mean over contexts: positive for synergy, negative for redundancy."""
        return self.differences.mean(1)

    @property
    def standard_error(self) -> Tensor:
        """The standard error of `index` (pairs,); NaN for a single context."""
        contexts = self.differences.shape[1]
        squares = (self.differences - self.index[:, None]).square().sum(1)
        return (
            (squares / (contexts * (contexts - 1.0))).sqrt()
            if contexts > 1
            else torch.full_like(squares, torch.nan)
        )

    @property
    def strength(self) -> Tensor:
        """The root mean square over contexts (pairs,) ≥ 0: interaction of either sign."""
        return self.differences.square().mean(1).sqrt()

    @property
    def first_order(self) -> Tensor:
        """|s_i s_j| (pairs,), with s_i the mean gain of patch i over contexts: how much both matter on their own."""
        effect = self.gains.mean(1)[torch.searchsorted(self.members, self.pairs)]
        return effect.prod(1).abs()

    def reliability(self, covariates: Sequence[Tensor] = (), seed: int = 0) -> float:
        """Compute the split-half reliability of `strength`.

        Contexts are divided at random into two halves. The result is Spearman's correlation over pairs between the
        strengths of both halves, averaged over 20 divisions. It is that of half the contexts, without a
        Spearman-Brown correction, so it underestimates the reliability of all of them. NaN for fewer than two contexts
        or constant strengths.

        Args:
            covariates: (pairs,) each, partialled out of both halves; see `rank_correlation`.
            seed: of the divisions.
        """
        contexts = self.differences.shape[1]
        if contexts < 2 or len(self.pairs) < 2:
            return float("nan")
        generator, found = torch.Generator().manual_seed(seed), []
        for _ in range(SPLITS):
            order = torch.randperm(contexts, generator=generator)
            first, second = (self.differences[:, part].square().mean(1) for part in order.tensor_split(2))
            found.append(rank_correlation(first, second, covariates))
        return float(sum(found) / SPLITS)


def draw_contexts(
    count: int, patches: int, weighting: Weighting = "banzhaf", *, generator: torch.Generator
) -> Tensor:
    """Draw subsets of all patches.

    Whether the two patches of a pair are in the subset does not matter to `second_differences`, so one subset serves
    all pairs, and without the pair it has the distribution that the index demands.

    Args:
        count: number of subsets.
        patches: number of patches.
        weighting: "banzhaf" includes each patch with probability 1/2; "shapley_taylor" draws one probability q from
            Beta(1, 2) per subset.
        generator: of the random numbers.

    Returns:
        (count, patches) bool.

    Raises:
        ValueError: `count` < 1, or an unknown `weighting`.

    Example:
        >>> draw_contexts(2, 5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5])
    """
    check_count("count", count)
    check_choice("weighting", weighting, WEIGHTINGS)
    probability = torch.full((count, 1), 0.5, dtype=torch.float64)
    if weighting == "shapley_taylor":
        # The inverse of the cumulative distribution 1 - (1 - q)^2.
        probability = 1 - torch.rand(count, 1, dtype=torch.float64, generator=generator).sqrt()
    return torch.rand(count, patches, dtype=torch.float64, generator=generator) < probability


def second_differences(score: Callable[[Tensor], Tensor], contexts: Tensor, pairs: Tensor) -> PairEffects:
    """Compute Δ_ij(S) of every pair in every context.

    Flipping the bits of i and j in one subset gives all four terms of every pair. Images that differ in one patch are
    shared among pairs, so that a context costs 1 + patches in any pair + pairs scores instead of 4 x pairs.

    Args:
        score: computes (images,) scores from the patches that are shown, (images, patches) bool.
        contexts: (contexts, patches) bool, from `draw_contexts`.
        pairs: (pairs, 2) integers, two different patches each.

    Raises:
        ValueError: `pairs` is not a list of two different patches of the image.

    Example:
        >>> together = lambda shown: (shown[:, 0] & shown[:, 1]).double()
        >>> contexts = torch.tensor([[True, False, True], [False, False, False]])
        >>> second_differences(together, contexts, torch.tensor([[0, 1], [0, 2]])).differences
        tensor([[1., 1.],
                [0., 0.]], dtype=torch.float64)
    """
    count = contexts.shape[1]
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"`pairs` must have shape (pairs, 2), got {tuple(pairs.shape)}.")
    if bool(((pairs < 0) | (pairs >= count)).any()) or bool((pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError(f"`pairs` must be two different patches in [0, {count - 1}] each, got others.")
    members = torch.unique(pairs)
    number = torch.searchsorted(members, pairs)
    flips = torch.zeros(1 + len(members) + len(pairs), count, dtype=torch.bool)
    flips[1 + torch.arange(len(members)), members] = True
    rows = 1 + len(members) + torch.arange(len(pairs))
    flips[rows[:, None], pairs] = True
    first, second = pairs.unbind(1)
    columns, gains = [], []
    for context in contexts:
        scores = score(context ^ flips).double()
        one = scores[1 : 1 + len(members)]
        difference = scores[0] - one[number].sum(1) + scores[rows]
        columns.append(torch.where(context[first] == context[second], difference, -difference))
        gains.append(torch.where(context[members], scores[0] - one, one - scores[0]))
    passes = len(contexts) * len(flips)
    return PairEffects(pairs, torch.stack(columns, 1), members, torch.stack(gains, 1), passes)


def choose_pairs(grid: tuple[int, int], count: int, *, generator: torch.Generator) -> Tensor:
    """Choose pairs of patches at random, half of them near each other.

    Near pairs lie in 3 x 3 blocks, four patches per block. The other half joins patches of different blocks, anywhere
    in the image. Few patches in many pairs keep `second_differences` cheap.

    Args:
        grid: (rows, cols) of the patches.
        count: number of pairs; fewer if the grid has fewer.
        generator: of the random numbers.

    Returns:
        (pairs, 2) int64, the lower index first, sorted and without duplicates.

    Raises:
        ValueError: `count` < 1, or a grid of a single patch.

    Example:
        >>> choose_pairs((14, 14), 80, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([80, 2])
    """
    check_count("count", count)
    rows, cols = grid
    if rows * cols < 2:
        raise ValueError(f"`grid` must have at least two patches, got {rows} x {cols}.")
    patch = torch.arange(rows * cols)
    blocks = patch // cols // BLOCK * -(-cols // BLOCK) + patch % cols // BLOCK
    near, far, members = list[Tensor](), list[Tensor](), torch.empty(0, dtype=torch.int64)
    for block in torch.randperm(int(blocks.max()) + 1, generator=generator):
        if sum(map(len, near)) >= count // 2 and sum(map(len, far)) >= count - count // 2:
            break
        inside = (blocks == block).nonzero().flatten()
        chosen = inside[torch.randperm(len(inside), generator=generator)[:MEMBERS]]
        near.append(torch.combinations(chosen, 2))
        far.append(torch.cartesian_prod(members, chosen))
        members = torch.cat([members, chosen])
    found = [_some(torch.cat(near), count // 2, generator)]
    found.append(_some(torch.cat(far), count - len(found[0]), generator))
    if sum(map(len, found)) < count:  # a small grid
        everything = torch.combinations(patch, 2)
        found = [_some(everything, count, generator)]
    ordered: Tensor = torch.unique(torch.cat(found).sort(1).values, dim=0)
    return ordered


def _some(pairs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return pairs[torch.randperm(len(pairs), generator=generator)[:count]].reshape(-1, 2)
