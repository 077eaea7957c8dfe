"""Tests of GMAR: its options, and a model in which one head matters."""

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explicit_attention import explicit_layers
from vit_interactions.functional.rollout import rollout


@pytest.mark.parametrize("scope", ["per_layer", "last_layer"])
@pytest.mark.parametrize("score_from", ["attention", "head_output"])
@pytest.mark.parametrize("order", ["top_down", "as_published"])
@pytest.mark.parametrize("residual", ["product", "horner"])
def test_gmar_options(
    residual: str, order: str, score_from: str, scope: str, model: nn.Module, images: Tensor
) -> None:
    layers = explicit_layers(model, images, target=1)
    with vi.record_attention(model) as record:
        output = model(images.clone().requires_grad_())
    sources = [g for _, g in layers] if score_from == "attention" else list(record.output_grads(output[:, 1]))
    weights = []
    for source in sources:
        norms = source.abs().sum((-2, -1))
        weights.append(norms / norms.sum(1, keepdim=True))
    if scope == "last_layer":
        weights = [weights[-1]] * len(weights)
    matrices = [(w[..., None, None] * a).sum(1) for w, (a, _) in zip(weights, layers, strict=True)]
    identity = torch.eye(matrices[0].shape[-1], dtype=torch.float64)
    product = identity.expand_as(matrices[0])
    for matrix in matrices:
        factor = matrix + 0.5 * identity if residual == "product" else matrix
        product = factor @ product if order == "top_down" else product @ factor
        product = product + 0.5 * identity if residual == "horner" else product
    method = vi.GMAR(
        model,
        "l1",
        alpha=0.5,
        residual=residual,
        order=order,
        row_norm=False,
        score_from=score_from,
        scope=scope,  # type: ignore[arg-type]
    )
    assert torch.allclose(method.patch_map(images, target=1).flatten(1), product[:, 0, 1:], rtol=1e-5, atol=1e-9)


def test_gmar_follows_the_one_head_that_matters(model: nn.Module, images: Tensor) -> None:
    for block in model.blocks:
        block.attn.proj.weight.data[:, block.attn.head_dim :] = 0
    with torch.no_grad(), vi.record_attention(model) as record:
        model(images)
    layers = [call.attention()[:, 0] for call in record.calls]
    readout = torch.zeros(layers[0].shape[-1], dtype=torch.float64)
    readout[0] = 1
    result = vi.GMAR(model).patch_map(images, target=1).flatten(1)
    assert torch.allclose(result, rollout(layers, readout)[:, 1:])
