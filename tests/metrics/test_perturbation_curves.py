"""Numbers of patches per step, and curves of a known score."""

import itertools

import pytest
import torch
from torch import Tensor

from vit_interactions.metrics.perturbation_curves import (
    area_under_curve,
    deletion_curve,
    insertion_curve,
    patch_counts,
)


def test_patch_counts_run_from_none_to_all() -> None:
    for patches in (1, 2, 9, 196):
        for steps in (1, 3, 20, 500):
            counts = patch_counts(patches, steps).tolist()
            assert counts[0] == 0
            assert counts[-1] == patches
            assert counts == sorted(set(counts))
            assert len(counts) == min(patches, steps) + 1
            gaps = {after - before for before, after in itertools.pairwise(counts)}
            assert max(gaps) - min(gaps) <= 1 or steps > patches


def test_a_curve_of_a_known_score() -> None:
    """If the score is the fraction of patches shown, both curves are diagonals."""
    ranks = torch.arange(12).reshape(3, 4)

    def share(shown: Tensor) -> Tensor:
        return shown.flatten(1).double().mean(1)

    assert area_under_curve(deletion_curve(ranks, 5, share)) == pytest.approx(0.5)
    assert area_under_curve(insertion_curve(ranks, 5, share)) == pytest.approx(0.5)
    torch.testing.assert_close(deletion_curve(ranks, 5, share).sum(1), torch.ones(6, dtype=torch.float64))
