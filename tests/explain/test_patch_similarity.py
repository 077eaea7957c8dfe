"""Patch similarity as an explainer: its rows, its mean, and its arguments."""

import pytest
import torch

import vit_interactions as vi
from tests.helpers.explaining import images, small_vit
from tests.helpers.families import Family
from vit_interactions.explain.configured import configure


def test_maps_are_rows_of_the_cosine_matrix_of_the_features(family: Family) -> None:
    model, inputs = family.build(), family.images()
    rows, cols = family.grid
    for layer in (0, -1):
        features = vi.patch_features(model, inputs, layer).double()
        unit = features / features.norm(dim=-1, keepdim=True)
        expected = torch.einsum("bpw,bqw->bpq", unit, unit).float()
        explainer = vi.PatchSimilarity(model, layer=layer)
        torch.testing.assert_close(explainer.similarity(inputs), expected, rtol=0, atol=1e-5)
        for row, col in ((0, 0), (rows - 1, 0), (1, cols - 1)):
            found = explainer.patch_map(inputs, patch=(row, col))
            torch.testing.assert_close(found.flatten(1), expected[:, row * cols + col], rtol=0, atol=1e-5)
            torch.testing.assert_close(found[:, row, col], torch.ones(2))
        others = expected * (1 - torch.eye(rows * cols))
        torch.testing.assert_close(
            explainer.patch_map(inputs).flatten(1), others.sum(2) / (rows * cols - 1), rtol=0, atol=1e-5
        )


def test_attributions_are_resized_maps() -> None:
    explainer = vi.PatchSimilarity(small_vit())
    assert explainer.attribute(images(), patch=(1, 2)).shape == images().shape
    assert not torch.equal(explainer.attribute(images(), patch=(1, 2)), explainer.attribute(images()))


def test_options_can_be_given_as_text() -> None:
    (method,) = configure(["patch_similarity:layer=0,norm=false"])
    explainer = method.create(small_vit())
    assert isinstance(explainer, vi.PatchSimilarity)
    assert (explainer.layer, explainer.norm) == (0, False)
    plain = vi.patch_features(small_vit(), images(), 0, norm=False)
    expected = torch.cosine_similarity(plain[:, :1], plain, dim=-1)
    torch.testing.assert_close(explainer.patch_map(images(), patch=(0, 0)).flatten(1), expected)


def test_wrong_arguments_raise() -> None:
    model = small_vit()
    with pytest.raises(ValueError, match=r"`patch` must lie in the grid: row in \[0, 3\], col in \[0, 3\], got"):
        vi.PatchSimilarity(model).patch_map(images(), patch=(4, 0))
    with pytest.raises(IndexError, match=r"`layer` must lie in \[-2, 1\] for this model, got 5\."):
        vi.PatchSimilarity(model, layer=5).patch_map(images())
    with pytest.raises(ValueError, match="`layer` must be an int, got 'last'"):
        vi.PatchSimilarity(model, layer="last")  # type: ignore[arg-type]
