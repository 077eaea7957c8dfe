"""Maps that rounding decides: how it is measured, and that the warning names the images."""

import warnings

import pytest
import torch
from scipy.stats import spearmanr

import vit_interactions as vi
from vit_interactions.explain.transformer_attribution import TransformerAttribution
from vit_interactions.explain.unstable_map import rank_agreement, warn_of_rounding

from .families import tiny


def test_rank_agreement_is_the_rank_correlation_of_each_map() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 5, 30, generator=generator)
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert rank_agreement(first, second).tolist() == pytest.approx(expected)
    assert rank_agreement(first, first.exp()).tolist() == pytest.approx([1.0] * 5)
    assert rank_agreement(first, -first).tolist() == pytest.approx([-1.0] * 5)
    zeros = torch.zeros(1, 4)
    assert rank_agreement(zeros, zeros).tolist() == pytest.approx([1.0])


def test_the_warning_names_the_images_and_says_how_far_the_ranks_are_apart() -> None:
    maps = torch.arange(40.0).view(4, 10)
    others = maps.clone()
    others[1], others[3] = maps[1].flip(0), maps[3].roll(1)
    with pytest.warns(vi.UnstableMapWarning, match=r"map of images 1, 3 in a batch of 4 .* down to -1.00\)"):
        warn_of_rounding("Method", maps, others)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_rounding("Method", maps, maps * 2)


def test_transformer_attribution_compares_its_map_with_that_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = TransformerAttribution(tiny("vit_tiny_patch16_224", img_size=64))
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("vit_interactions.explain.unstable_map.LIMIT", 2.0)  # nothing agrees that well
    with pytest.warns(vi.UnstableMapWarning, match=r"^TransformerAttribution's map of images 0, 1 ") as caught:
        explainer.patch_map(inputs, 1)
    assert [warning.filename for warning in caught] == [__file__]  # once, at the line that asked
