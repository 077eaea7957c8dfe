"""Masks of tokens: combined with the model's own."""

import torch

from vit_interactions.attention.sdpa import read_sdpa
from vit_interactions.attention.token_masking import mask_keys


def test_the_models_own_masks_are_kept() -> None:
    query = torch.randn(4, 3, 8)  # 2 images of 2 heads, folded
    shown = torch.tensor([[True, False, True], [True, True, False]])
    folded = mask_keys(read_sdpa(query, query, query), shown)
    assert folded.tolist() == [[row] for row in shown.repeat_interleave(2, 0).tolist()]
    full = query.view(2, 2, 3, 8)
    bias = torch.randn(1, 2, 3, 3)
    added = mask_keys(read_sdpa(full, full, full, attn_mask=bias), shown)
    assert torch.equal(added[1, :, :, :2], bias[0, :, :, :2])
    assert (added[1, :, :, 2] == float("-inf")).all()
    window = torch.eye(3, dtype=torch.bool)
    both = mask_keys(read_sdpa(full, full, full, attn_mask=window), shown)
    assert torch.equal(both[0, 0], window & shown[0])
