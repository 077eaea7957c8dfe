"""Features in one byte per pair: their error, and how many layers are kept."""

import numpy as np
import pytest
import torch

from vit_interactions.explorer import features
from vit_interactions.explorer.features import quantize_features


def test_quantization_error_is_at_most_half_a_step() -> None:
    tokens = [torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    found = quantize_features(tokens)
    assert found.layers == (0, 1)
    for layer, rows in enumerate(tokens):
        pairs = iter(found.similarity[layer] / 40.0 - 1)
        for p in range(7):
            for q in range(p):
                exact = torch.cosine_similarity(rows[p].double(), rows[q].double(), dim=0)
                assert abs(next(pairs) - exact) <= 0.5001 / 40
        assert next(pairs, None) is None
    assert np.array_equal(found.packed().cumsum(0, dtype=np.uint8), found.similarity)
    assert found.colors.shape == (2, 7, 3)
    assert found.colors.min() == 0
    assert found.colors.max() == 255


def test_large_grids_keep_the_last_layer_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    whole = quantize_features(tokens)
    monkeypatch.setattr(features, "EVERY_LAYER", 3 * 21)
    assert quantize_features(tokens).layers == (0, 1, 2)
    monkeypatch.setattr(features, "EVERY_LAYER", 3 * 21 - 1)
    last = quantize_features(tokens)
    assert last.layers == (2,)
    for name in ("similarity", "colors", "explained"):
        assert np.array_equal(getattr(last, name)[0], getattr(whole, name)[2])
    monkeypatch.setattr(features, "ONE_LAYER", 20)
    nothing = quantize_features(tokens)
    assert nothing.layers == ()
    assert nothing.similarity.size == nothing.colors.size == 0
