"""Colors of patches from the principal components of a model's own features."""

import torch

import vit_interactions as vi
from tests.helpers.explaining import images, small_vit
from tests.helpers.families import Family
from vit_interactions.functional.feature_pca import component_colors, principal_components


def test_colors_are_those_of_the_features_on_the_grid(family: Family) -> None:
    model, inputs = family.build(), family.images()
    for layer, joint in ((-1, False), (0, True)):
        colors = vi.feature_pca(model, inputs, layer, joint=joint)
        assert colors.shape == (2, *family.grid, 3)
        assert colors.min() == 0
        assert colors.max() == 1
        scores = principal_components(vi.patch_features(model, inputs, layer), joint=joint).scores
        expected = component_colors(scores, joint=joint)
        for row in range(family.grid[0]):
            for col in range(family.grid[1]):
                assert torch.equal(colors[:, row, col], expected[:, row * family.grid[1] + col])


def test_joint_colors_of_two_equal_images_are_equal() -> None:
    inputs = images(1).expand(2, -1, -1, -1)
    colors = vi.feature_pca(small_vit(), inputs, joint=True)
    torch.testing.assert_close(colors[0], colors[1])
