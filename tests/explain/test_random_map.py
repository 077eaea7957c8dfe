"""Random maps depend on the image and the seed only."""

import torch

import vit_interactions as vi
from tests.helpers.families import FAMILIES


def test_the_control_depends_on_image_and_seed_only() -> None:
    family = FAMILIES["non_square"]
    model, images = family.build(), family.images(3)
    result = vi.RandomMap(model).patch_map(images)
    assert result.shape == (3, *family.grid)
    assert (result >= 0).all()
    assert (result < 1).all()
    assert torch.equal(result[1:2], vi.RandomMap(model).patch_map(images[1:2]))
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result, vi.RandomMap(model, seed=1).patch_map(images))
    many = vi.RandomMap(model).patch_map(family.images(200))
    assert abs(float(many.mean()) - 0.5) < 0.02
