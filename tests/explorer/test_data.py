"""The data of a page, compared with the library."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.explorer import quantize
from vit_interactions.explorer.data import PageData, page_data
from vit_interactions.explorer.quantize import quantize_rows, row_ends
from vit_interactions.explorer.render import render
from vit_interactions.figures import PreparedImage


def own_attention(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), vi.record_attention(model) as record:
        model(inputs)
    prefix = record.layout.prefix
    return torch.stack([record.attention(layer)[0, :, prefix:, prefix:] for layer in range(len(record.calls))])


def test_page_data_matches_the_library(model: nn.Module, prepared: PreparedImage, found: PageData) -> None:
    inputs = prepared.input[None]
    assert torch.equal(found.uncertainty, vi.InteractionUncertainty(model).uncertainty(inputs)[0])
    attention, kept = own_attention(model, inputs), found.attention
    assert (kept.form, kept.levels) == ("heads", 256)
    assert torch.equal(torch.from_numpy(kept.values), quantize_rows(attention, row_ends(attention), 256))
    assert np.allclose(kept.peaks / 65535, attention.amax(-1), atol=1e-5)
    assert np.allclose(kept.inside / 65535, attention.sum(-1), atol=1e-5)
    assert found.prediction is not None
    assert found.prediction.index == int(model(inputs).argmax())


def test_the_model_runs_once(model: nn.Module, prepared: PreparedImage) -> None:
    passes: list[int] = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    page_data(model, prepared, named=False)  # the first one probes the model
    passes.clear()
    page_data(model, prepared, named=False)
    handle.remove()
    assert len(passes) == 1


def test_the_model_is_restored(model: nn.Module, prepared: PreparedImage) -> None:
    model.train()
    try:
        state = torch.random.get_rng_state()
        found = page_data(model, prepared, named=False)
        assert model.training
        assert torch.equal(state, torch.random.get_rng_state())
    finally:
        model.eval()
    assert torch.equal(found.uncertainty, page_data(model, prepared, named=False).uncertainty)


def test_large_grids_keep_the_mean_over_heads_or_nothing(
    model: nn.Module, prepared: PreparedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = own_attention(model, prepared.input[None])
    layers, heads, patches, _ = attention.shape
    monkeypatch.setattr(quantize, "EACH_HEAD", layers * heads * patches**2 - 1)
    monkeypatch.setattr(quantize, "FINE_VALUES", layers * patches**2 - 1)
    found = page_data(model, prepared, named=False)
    assert (found.attention.form, found.attention.levels, found.attention.all_heads) == ("means", 16, heads)
    means = attention.mean(1, True)
    assert torch.equal(torch.from_numpy(found.attention.values), quantize_rows(means, row_ends(means), 16))
    packed = found.attention.packed()
    assert packed.size == -(-found.attention.values.size // 2)
    assert np.array_equal(np.stack([packed & 15, packed >> 4], 1).ravel(), found.attention.values.ravel())
    text = render(found, title="t", model="m", alpha=0.1, beta=0.2)
    assert f"the mean of its {heads} heads (with {patches} patches" in text

    monkeypatch.setattr(quantize, "LAYER_MEANS", 1)
    nothing = page_data(model, prepared, named=False)
    assert (nothing.attention.form, nothing.attention.values.size) == ("none", 0)
    assert "Not shown" in render(nothing, title="t", model="m", alpha=0.1, beta=0.2)
