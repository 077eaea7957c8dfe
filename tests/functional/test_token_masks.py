"""Sets of patches: blocks, clusters of two kinds of channels, and means by hand."""

import torch

from vit_interactions.functional.token_masks import mean_score_shown, sample_masks, square_blocks


def test_blocks() -> None:
    assert torch.equal(square_blocks((2, 3), 1), torch.eye(6).bool())
    assert square_blocks((5, 4), 2).sum(1).tolist() == [4] * 12


def test_masks_show_the_highest_patches_of_each_cluster() -> None:
    # Two kinds of channels, far apart: one rises over the patches, the other falls.
    rising = torch.arange(6.0)
    channels = torch.stack([rising, rising + 0.1, 9 - 9 * rising, 9.1 - 9 * rising], 1)
    found = {tuple(mask.tolist()) for mask in sample_masks(channels, 2, 0.5, seed=0)}
    late = (False, False, False, True, True, True)
    assert found == {late, late[::-1]}


def test_a_patch_that_no_mask_shows_gets_the_mean() -> None:
    shown = torch.tensor([[True, False, False], [True, True, False], [False, True, False]])
    found = mean_score_shown(torch.tensor([1.0, 2.0, 6.0]), shown)
    assert found.tolist() == [1.5, 4.0, 3.0]
