"""Principal components of patch features against a singular value decomposition, planted groups, and limits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vit_interactions.functional.feature_pca import component_colors, principal_components


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def by_svd(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """X - mean = U S Vᵀ: scores U S with the largest magnitude positive, and S² / Σ S²."""
    centered = features.numpy() - features.numpy().mean(0)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    scores = left[:, :3] * sizes[:3]
    for component in range(3):
        if scores[np.abs(scores[:, component]).argmax(), component] < 0:
            scores[:, component] *= -1
    return scores, sizes[:3] ** 2 / (sizes**2).sum()


@pytest.mark.parametrize("shape", [(12, 5), (7, 20)])  # more patches than widths, and fewer
def test_scores_and_variance_are_those_of_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    features = draw(2, *shape) * torch.arange(1, shape[1] + 1) + 3
    found = principal_components(features)
    assert found.scores.shape == (2, shape[0], 3)
    for image in range(2):
        scores, explained = by_svd(features[image])
        assert np.allclose(found.scores[image], scores, atol=1e-9)
        assert np.allclose(found.explained[image], explained, atol=1e-12)
    joint = principal_components(features, joint=True)
    scores, explained = by_svd(features.flatten(0, 1))
    assert np.allclose(joint.scores.flatten(0, 1), scores, atol=1e-9)
    assert np.allclose(joint.explained, [explained, explained])


def test_values_solved_by_hand() -> None:
    # Two directions at right angles: variances 2 · 3² and 2 · 1², so 90% and 10%.
    features = torch.tensor([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]]) + 7
    found = principal_components(features)
    assert torch.allclose(found.explained, torch.tensor([[0.9, 0.1, 0.0]]).double())
    assert torch.allclose(
        found.scores[0].abs(), torch.tensor([[3.0, 0, 0], [3, 0, 0], [0, 1, 0], [0, 1, 0]]).double()
    )
    assert found.scores[0, 0, 0] == -found.scores[0, 1, 0]


def test_three_planted_groups_get_three_colors() -> None:
    # Group centers at the corners of a simplex, of unequal sizes; noise a hundred times smaller.
    groups = torch.tensor([0] * 20 + [1] * 14 + [2] * 10)[
        torch.randperm(44, generator=torch.Generator().manual_seed(3))
    ]
    features = torch.eye(16)[groups].double() * 5 + 0.05 * draw(44, 16)
    found = principal_components(features[None])
    assert found.explained[0, :2].sum() > 0.98
    colors = component_colors(found.scores)[0]
    centers = torch.stack([colors[groups == group, :2].mean(0) for group in range(3)])
    spread = max((colors[groups == group, :2] - centers[group]).abs().max().item() for group in range(3))
    assert torch.pdist(centers).min() > 0.8
    assert spread < 0.1


def test_rotating_moving_and_scaling_features_changes_no_color() -> None:
    features = draw(2, 30, 6) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    rotation = torch.linalg.qr(draw(6, 6, seed=1)).Q
    for joint in (False, True):
        before = principal_components(features, joint=joint)
        after = principal_components(4 * features @ rotation + draw(6, seed=2), joint=joint)
        torch.testing.assert_close(after.scores, 4 * before.scores)
        torch.testing.assert_close(after.explained, before.explained)
        torch.testing.assert_close(
            component_colors(after.scores, joint=joint), component_colors(before.scores, joint=joint)
        )


def test_the_score_of_the_largest_magnitude_is_positive() -> None:
    features = torch.tensor([[[1.0, 0.0, 0.0]] * 5 + [[-9.0, 0.0, 0.0]]])
    for sign in (1, -1):
        scores = principal_components(sign * features).scores[0, :, 0]
        assert scores.argmax() == 5
        assert scores[0] < 0


def test_joint_components_compare_images_and_separate_ones_do_not() -> None:
    features = draw(1, 20, 8)
    images = torch.cat((features, features + 3))
    separate, joint = principal_components(images), principal_components(images, joint=True)
    torch.testing.assert_close(separate.scores[0], separate.scores[1])
    # Across images, the difference of the two is the first component.
    assert (joint.scores[0, :, 0].sign() == -joint.scores[1, :, 0].sign()).all()
    colors = component_colors(joint.scores, joint=True)
    assert colors.flatten(0, 1).amin(0).eq(0).all()
    assert (colors[0, :, 0] - colors[1, :, 0]).abs().min() > 0.3


def test_components_that_do_not_exist_are_zero() -> None:
    constant = torch.full((1, 9, 5), 0.1) * (1 + 1e-7 * draw(1, 9, 5).float())
    for features in (torch.zeros(1, 9, 5), constant, draw(1, 1, 4)):
        found = principal_components(features)
        assert found.scores.eq(0).all()
        assert found.explained.eq(0).all()
        assert component_colors(found.scores).eq(0.5).all()
    for features, count in ((draw(1, 2, 8), 1), (draw(1, 3, 8), 2), (draw(1, 8, 1), 1), (draw(1, 8, 2), 2)):
        found = principal_components(features)
        assert found.scores.shape == (1, features.shape[1], 3)
        assert found.scores[..., count:].eq(0).all()
        assert found.scores[..., :count].ne(0).any(1).all()
        assert (found.explained > 0).sum() == count
        assert torch.allclose(found.explained.sum(), torch.ones(()).double())


def test_colors_are_scaled_from_the_2nd_to_the_98th_percentile() -> None:
    scores = torch.arange(102.0).reshape(1, 102, 1).expand(1, 102, 3)
    colors = component_colors(scores)[0, :, 0]
    assert colors[:3].eq(0).all()
    assert colors[99:].eq(1).all()
    torch.testing.assert_close(colors[2:100], torch.arange(98.0) / 97)
    outlier = scores.clone()
    outlier[0, 101] = 1e6
    assert torch.equal(component_colors(outlier)[0, :, 0], colors)


def test_wrong_features_raise() -> None:
    with pytest.raises(ValueError, match=r"`features` must have shape \(batch, patches, width\), got \(3, 4\)"):
        principal_components(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="`features` must be finite, got NaN"):
        principal_components(torch.full((1, 2, 3), torch.nan))
