"""The data of a page, compared with the library."""

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explored import COLS, ROWS
from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.explorer import quantize
from vit_interactions.explorer.data import PageData, page_data
from vit_interactions.explorer.quantize import quantize_rows, row_ends
from vit_interactions.explorer.render import _arrays, _sliders, render
from vit_interactions.explorer.thresholds import slider_steps
from vit_interactions.figures import PreparedImage
from vit_interactions.functional import indiscriminative_patches, relevant_pairs
from vit_interactions.functional.feature_pca import principal_components

attention_sinks_module = importlib.import_module("vit_interactions.functional.attention_sinks")


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


def test_features_are_those_of_the_library(model: nn.Module, prepared: PreparedImage, found: PageData) -> None:
    assert found.features is not None
    assert found.features.layers == tuple(range(len(found.features.similarity)))
    inputs, (rows, cols) = prepared.input[None], found.layout.grid
    below = torch.ones(rows * cols, rows * cols).tril(-1).bool()
    for layer, similarity in enumerate(found.features.similarity):
        exact = vi.PatchSimilarity(model, layer=layer).similarity(inputs)[0]
        assert np.allclose(similarity / 40 - 1, exact[below], atol=0.5001 / 40)
        colors = vi.feature_pca(model, inputs, layer)[0].reshape(-1, 3)
        assert np.array_equal(found.features.colors[layer], (colors * 255).round().numpy())
        scores = principal_components(vi.patch_features(model, inputs, layer))
        assert np.allclose(found.features.explained[layer], scores.explained[0])


def test_models_whose_blocks_cannot_be_read_get_a_page_without_features(prepared: PreparedImage) -> None:
    class Alone(nn.Module):
        """A ViT whose blocks are not in a list."""

        def __init__(self) -> None:
            super().__init__()
            vit = sharp_vit(img_size=(16 * ROWS, 16 * COLS))
            self.first, self.second = vit.blocks[:2]
            self.vit, vit.blocks = vit, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.vit._pos_embed(self.vit.patch_embed(x))
            logits: Tensor = self.vit.forward_head(self.vit.norm(self.second(self.first(tokens))))
            return logits

    found = page_data(Alone().eval(), prepared, named=False)
    assert found.features is None
    text = render(found, title="t", model="m", alpha=0.1, beta=0.2)
    assert "Not available: the outputs of this model's blocks cannot be read." in text


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
    text = render(nothing, title="t", model="m", alpha=0.1, beta=0.2)
    assert f"<h2>Attention</h2><p>Omitted to keep the page small: this image has {patches} patches.</p>" in text


def test_sinks_are_marked_and_left_out_on_request(
    model: nn.Module, prepared: PreparedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = page_data(model, prepared, named=False)
    assert torch.equal(plain.sinks, vi.attention_sinks(model, prepared.input[None]).patches[0])
    monkeypatch.setattr(attention_sinks_module, "FAIR_SHARES", 1.5)
    monkeypatch.setattr(attention_sinks_module, "DEVIATIONS", 0.0)
    marked = page_data(model, prepared, named=False)
    count = int(marked.sinks.sum())
    assert 0 < count < marked.layout.patches
    assert torch.equal(marked.uncertainty, plain.uncertainty)
    assert marked.excluded is None
    text = render(marked, title="t", model="m", alpha=0.1, beta=0.2)
    assert f"x: attention sink, a patch that receives attention out of proportion. {count} of" in text
    assert "are left out" not in text

    without = page_data(model, prepared, named=False, exclude_sinks=True)
    assert torch.equal(without.uncertainty, plain.uncertainty.masked_fill(marked.sinks, 0.0))
    assert "; their columns of U are left out" in render(without, title="t", model="m", alpha=0.1, beta=0.2)
    sliders = slider_steps(without.uncertainty, 0.1, 0.2, without.excluded)
    exclude = marked.sinks[None]
    for step, alpha in enumerate(sliders.alphas):
        expected = relevant_pairs(plain.uncertainty[None], alpha, exclude)[0]
        assert np.array_equal(sliders.steps <= step, expected.numpy()), alpha
    assert sliders.values[len(sliders.alphas)] == 0
    order = np.frombuffer(_arrays(without, sliders)["order"], np.uint16)
    drops = _sliders(without, sliders, 0.1, 0.2)["drop_counts"]
    for beta, drop in zip(sliders.betas, drops, strict=True):
        dropped = indiscriminative_patches(plain.uncertainty[None], beta, exclude)[0]
        assert np.array_equal(order < drop, dropped.numpy()), beta
