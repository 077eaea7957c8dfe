"""Masks of tokens: combined with the model's own, and only where masking a token removes it."""

import pytest
import torch

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.sdpa import read_sdpa
from vit_interactions.attention.token_masking import check_maskable, mask_keys


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


def test_outputs_that_are_read_from_patches_are_unsupported() -> None:
    def layout(**options: object) -> TokenLayout:
        return TokenLayout(**{"prefix": 1, "rows": 1, "cols": 2, "readout": "token", "extent": (2, 4), **options})

    for readout in ("token", "distilled", "map"):
        check_maskable(layout(readout=readout), "Model")
    check_maskable(layout(shares=(1.0, 0.0, 0.0)), "Model")
    for readout, reason in (
        ("avg", "averages all"),
        ("token_avg", "averages all"),
        ("other", "read from patches"),
    ):
        with pytest.raises(UnsupportedModelError, match=rf"^Model .*{reason}.*captum's occlusion\.$"):
            check_maskable(layout(readout=readout), "Model")
    with pytest.raises(UnsupportedModelError, match="read from patches"):
        check_maskable(layout(readout="token", shares=(0.0, 0.0, 1.0)), "Model")
