"""Pixels of patches, of padded and of cropped images."""

import pytest
import torch
from torch import Tensor

from tests.helpers.planted import (
    random_map,
)
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.metrics import METRICS, Case
from vit_interactions.metrics.pixel_scores import pixel_mask


def test_masks_cover_the_pixels_of_their_patches_even_with_padding_or_crop() -> None:
    shown = random_map((3, 2), 0) > 0.5
    shown[0, 0] = False
    for size in ((12, 10), (11, 9), (13, 12)):  # exact, padded by the model, with pixels that no patch covers
        layout = TokenLayout(prefix=1, rows=3, cols=2, readout="token", extent=(12, 10))
        mask = pixel_mask(shown.unsqueeze(0), layout, size)[0]
        assert mask.shape == size
        for y in range(size[0]):
            for x in range(size[1]):
                covered = y < 12 and x < 10
                assert bool(mask[y, x]) == (not covered or bool(shown[y // 4, x // 5])), (size, y, x)


def test_pixels_that_no_patch_covers_are_part_of_the_whole_image() -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images.mean((1, 2, 3)) * 5, images.std((1, 2, 3))], 1)

    inputs = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layout = TokenLayout(prefix=0, rows=2, cols=2, readout="avg", extent=(16, 16))
    values = torch.tensor([[0.1, 0.9], [0.4, 0.2]], dtype=torch.float64)
    full = float(Mean()(inputs).softmax(1)[0, 0])
    found = []
    for order in (["average_drop", "deletion"], ["deletion", "average_drop"]):
        case = Case(Mean(), inputs, 0, layout, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        scores = {name: METRICS[name].measure(case, values) for name in order}
        found.append(scores["average_drop"].value)
        assert scores["deletion"].curve is not None
        assert float(scores["deletion"].curve[0, 1]) == pytest.approx(full, abs=1e-12)
    assert found[0] == found[1]
