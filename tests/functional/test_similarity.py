"""Cosine similarity of patches against its equation, and its limits."""

import math

import pytest
import torch
from torch import Tensor

from vit_interactions.functional.similarity import cosine_similarity, mean_similarity, unit_features


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_similarity_is_the_cosine_of_the_angle_between_features() -> None:
    # S_pq = <x_p, x_q> / (|x_p| |x_q|)
    features = draw(2, 5, 4)
    found = cosine_similarity(features)
    for image, rows in enumerate(features.double().tolist()):
        for p, x in enumerate(rows):
            for q, y in enumerate(rows):
                product = sum(a * b for a, b in zip(x, y, strict=True))
                lengths = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
                assert math.isclose(found[image, p, q], product / lengths, abs_tol=1e-6)
            mean = sum(found[image, p, q].item() for q in range(5) if q != p) / 4
            assert math.isclose(mean_similarity(features)[image, p], mean, abs_tol=1e-6)
    for patch in range(5):
        torch.testing.assert_close(cosine_similarity(features, patch), found[:, patch], rtol=0, atol=1e-7)


def test_values_solved_by_hand() -> None:
    features = torch.tensor([[[3.0, 4.0], [4.0, 3.0], [-6.0, -8.0], [0.0, 0.0]]])
    expected = [[1.0, 0.96, -1.0, 0.0], [0.96, 1.0, -0.96, 0.0], [-1.0, -0.96, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(cosine_similarity(features), torch.tensor([expected]))
    torch.testing.assert_close(
        mean_similarity(features), torch.tensor([[-0.04 / 3, 0.0, -1.96 / 3, 0.0]]), rtol=0, atol=1e-6
    )
    assert mean_similarity(features[:, :1]).eq(0).all()


def test_rotating_and_scaling_features_changes_nothing() -> None:
    features = draw(2, 6, 8).double()
    rotation = torch.linalg.qr(draw(8, 8, seed=1).double()).Q
    scales = draw(2, 6, 1, seed=2).double().exp()
    torch.testing.assert_close(cosine_similarity(features @ rotation * scales), cosine_similarity(features))
    # Order of the patches.
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    torch.testing.assert_close(
        cosine_similarity(features[:, order]), cosine_similarity(features)[:, order][:, :, order]
    )


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_very_large_and_small_features_neither_overflow_nor_vanish(size: float) -> None:
    features = draw(1, 4, 3)
    torch.testing.assert_close(cosine_similarity(features * size), cosine_similarity(features))
    assert cosine_similarity(features * size).abs().max() <= 1


def test_half_precision_is_computed_in_float32() -> None:
    features = (draw(1, 4, 64) * 500).half()
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_similarity(features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cosine_similarity(features.float()))
    assert unit_features(features.double()).dtype == torch.float64


def test_features_of_another_shape_raise() -> None:
    for shape in ((3, 4), (1, 0, 4), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match=r"`features` must have shape \(batch, patches, width\), got"):
            cosine_similarity(torch.zeros(shape))
        with pytest.raises(ValueError, match=r"`features` must have shape \(batch, patches, width\), got"):
            mean_similarity(torch.zeros(shape))


@pytest.mark.parametrize("patch", [-1, 5])
def test_similarity_rejects_a_patch_that_does_not_exist(patch: int) -> None:
    with pytest.raises(IndexError, match=rf"`patch` must lie in \[0, 4\], got {patch}"):
        cosine_similarity(draw(2, 5, 4), patch)
