"""Small studies of pairs, and records of known effects."""

import torch
from torch import Tensor

from vit_interactions.functional.pair_effects import PairEffects, choose_pairs
from vit_interactions.pair_study.measure import PairRecord

GRID = (6, 6)


def record_of(seed: int, noise: float = 0.0, contexts: int = 4) -> PairRecord:
    """Create a record whose strengths are known up to noise, and three methods: perfect, opposite and unrelated."""
    generator = torch.Generator().manual_seed(seed)
    pairs = choose_pairs(GRID, 30, generator=generator)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    strength, members = 1 + draw(30), pairs.unique()
    differences = strength[:, None] + noise * draw(30, contexts)
    effects = PairEffects(pairs, differences, members, draw(len(members), contexts), passes=contexts * 40)
    values = {"perfect": effects.strength.exp(), "opposite": -effects.strength, "unrelated": draw(30)}
    values |= {"mean_attention": draw(30), "closeness": draw(30), "first_order_product": effects.first_order}
    # Five points each, from the same score of no patch to the same of all.
    fractions, inner = (
        torch.linspace(0, 1, 5, dtype=torch.float64),
        [name for name in values if "product" not in name],
    )
    curves = {
        name: torch.stack([fractions, *(fractions * (1 + draw(5) * (1 - fractions)) for _ in range(2))], 1)
        for name in inner
    }
    return PairRecord(3, GRID, effects, values, curves)
