"""The chosen patches, and one image of a batch."""

import numpy as np
import pytest
import torch

import vit_interactions as vi
from tests.helpers.drawn import COLS, LAYOUT, N, prepared, uncertainty
from vit_interactions import figures
from vit_interactions.figures.selection import one_image


def test_chosen_patches_are_distinct_far_apart_and_deterministic():
    for seed in range(5):
        u = uncertainty(seed)
        patches = figures.choose_patches(u, LAYOUT)
        assert patches == figures.choose_patches(u.clone(), LAYOUT)
        assert len(set(patches)) == 4
        apart = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in patches for b in patches if a != b]
        assert min(apart) >= 6 / 4
        most = int(u.double().var(0).argmax())
        assert patches[0] == divmod(most, COLS)
        # The most and the least discriminative patches are excluded.
        exclude = torch.zeros(1, N, dtype=torch.bool)
        exclude[0, u.double().var(0).argsort()[[0, -1]]] = True
        others = figures.choose_patches(u, LAYOUT, exclude=exclude)
        assert len(others) == 4
        assert not any(exclude[0, row * COLS + col] for row, col in others)
    assert len(figures.choose_patches(uncertainty(), LAYOUT, count=1)) == 1
    assert len(set(figures.choose_patches(uncertainty(), LAYOUT, count=100))) < N


def test_one_image_of_a_batch():
    u = torch.stack([uncertainty(0), uncertainty(1)])
    fields = vi.responsive_field(u, LAYOUT.grid)
    second = one_image(fields, LAYOUT, 1)
    assert torch.equal(second.mask[0], vi.responsive_field(u[1:], LAYOUT.grid).mask[0])
    with pytest.raises(ValueError, match="`index` must select one of the 2 images of `field`, got None"):
        figures.field_figure(prepared((480, 320)), fields, LAYOUT)
    with pytest.raises(ValueError, match=r"`index` must lie in \[0, 1\], the images of `field`, got 2"):
        figures.field_figure(prepared((480, 320)), fields, LAYOUT, index=2)
