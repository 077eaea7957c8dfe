"""Pair maps of every method that has one: shape, type, order, and how they are related to maps of patches."""

from typing import Any

import pytest
import torch
from torch import Tensor

import vit_interactions as vi
from tests.helpers.explaining import (
    REASONS,
    assert_near,
    assert_same_state,
    images,
    lived_in_model,
    small_vit,
    state_of,
)
from tests.helpers.families import FAMILIES
from vit_interactions.attention import token_layout
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.explain.registry import pair_methods

NAMES = pair_methods()
every_method = pytest.mark.parametrize("name", NAMES)
FROM_U = (vi.InteractionUncertainty, vi.IndiscriminativePatches)
FIELDS = (vi.ResponsiveFieldSize, vi.ResponsiveFieldTendency)
PROPAGATING = [name for name in NAMES if not issubclass(vi.EXPLAINERS[name], (*FROM_U, *FIELDS))]


def both_maps(name: str, model: Any, inputs: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the pair map and the map of patches (batch, patches) of two classes."""
    explainer: Any = vi.EXPLAINERS[name](model, **options)
    target = [1, 2] if explainer.class_specific else None
    return explainer.pair_map(inputs, target), explainer.patch_map(inputs, target).flatten(1)


def test_methods_with_a_pair_map_are_listed() -> None:
    assert [name for name, method in vi.EXPLAINERS.items() if hasattr(method, "pair_map")] == NAMES
    assert {"interaction_uncertainty", "raw_attention", "generic_attention"} < set(NAMES)
    assert "legrad" not in NAMES
    assert all(issubclass(vi.EXPLAINERS[name], PairMapped) for name in NAMES)


@every_method
@pytest.mark.parametrize("chosen", ["vit", "siglip", "beit", "reg4_gap"])
def test_shape_type_and_batch(name: str, chosen: str) -> None:
    if (name, chosen) in REASONS:
        pytest.skip("unsupported")
    model, inputs = FAMILIES[chosen].build(), FAMILIES[chosen].images()
    pairs, _ = both_maps(name, model, inputs)
    patches = token_layout(model, (inputs.shape[-2], inputs.shape[-1])).patches
    assert pairs.shape == (2, patches, patches)
    assert pairs.dtype == torch.float32
    assert pairs.isfinite().all()
    assert (pairs >= 0).all()
    assert not pairs.requires_grad
    assert not torch.equal(pairs[0], pairs[1])
    explainer: Any = vi.EXPLAINERS[name](model)
    (first,) = explainer.pair_map(inputs[:1], 1 if explainer.class_specific else None)
    assert_near(first, pairs[0], 1e-4)


@pytest.mark.parametrize("name", PROPAGATING)
def test_a_model_that_averages_its_patches_reads_the_mean_of_their_rows(name: str) -> None:
    model, inputs = FAMILIES["reg4_gap"].build(), FAMILIES["reg4_gap"].images()
    assert token_layout(model, (inputs.shape[-2], inputs.shape[-1])).readout == "avg"
    pairs, patches = both_maps(name, model, inputs)
    assert_near(pairs.mean(1), patches, 1e-4)


@every_method
def test_the_class_matters_where_it_is_declared(name: str) -> None:
    explainer: Any = vi.EXPLAINERS[name](small_vit())
    first, second = (explainer.pair_map(images(), target) for target in (1, 3))
    assert torch.equal(first, second) != explainer.class_specific


def test_columns_of_u_average_to_the_map() -> None:
    pairs, patches = both_maps("interaction_uncertainty", small_vit(), images())
    assert torch.equal(pairs.mean(1), patches)
    explainer = vi.InteractionUncertainty(small_vit())
    assert torch.equal(pairs, explainer.uncertainty(images()))
    assert torch.equal(pairs[:, 6], explainer.patch_map(images(), patch=(1, 2)).flatten(1))  # 4 patches per row


def test_rows_of_fields_sum_to_their_sizes() -> None:
    pairs, patches = both_maps("responsive_field_size", small_vit(), images(), alpha=0.3)
    assert torch.equal(pairs.sum(2), patches)
    assert (pairs.diagonal(dim1=1, dim2=2) == 1).all()
    assert set(pairs.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_attention_and_its_rollout_by_hand(fusion: Any) -> None:
    model, inputs = small_vit(), images()
    with torch.no_grad(), vi.record_attention(model) as record:
        model(inputs)
    layers = [call.attention().double() for call in record.calls]
    fused = [layer.mean(1) if fusion == "mean" else layer.amax(1) for layer in layers]
    raw, _ = both_maps("raw_attention", model, inputs, fusion=fusion, layer=0)
    assert_near(raw, fused[0][:, 1:, 1:].float())
    product = torch.eye(17).double()
    for layer in fused:  # M_L ... M_1, M = rownorm(A + I)
        residual = layer + torch.eye(17).double()
        product = residual / residual.sum(-1, keepdim=True) @ product
    rolled, _ = both_maps("attention_rollout", model, inputs, fusion=fusion)
    assert_near(rolled, product[:, 1:, 1:].float())


def test_generic_attention_is_r_without_the_identity() -> None:
    """Gather R ← R + E R, E = mean_h max(A * G, 0), with G by autograd in float64."""
    model, inputs = small_vit().double(), images().double()
    with vi.record_attention(model) as record:
        output = model(inputs)
    relevance = torch.eye(17).double().expand(2, 17, 17)
    for layer, call in enumerate(record.calls):
        gradient = record.attention_grad(layer, output[torch.arange(2), [1, 2]])
        evidence = (call.attention() * gradient).detach().clamp(min=0).mean(1)
        relevance = relevance + evidence @ relevance
    expected = (relevance - torch.eye(17).double())[:, 1:, 1:]
    pairs, _ = both_maps("generic_attention", model, inputs)
    assert pairs.dtype == torch.float64
    assert_near(pairs, expected)


@every_method
def test_the_model_is_unchanged(name: str) -> None:
    model = lived_in_model()
    before = state_of(model)
    explainer: Any = vi.EXPLAINERS[name](model)
    (pairs,) = (explainer.pair_map((images(),), 1),)
    assert_same_state(before, state_of(model))
    with torch.inference_mode():
        assert torch.equal(explainer.pair_map(images(), 1), pairs)
