"""Attention flow of models equals the flow of their recorded attention."""

import pytest
import torch

import vit_interactions as vi
from tests.helpers.families import FAMILIES
from vit_interactions.functional.maximum_flow import attention_flow


@pytest.mark.parametrize("family_name", ["vit", "dinov3", "siglip"])
def test_the_explainer_shares_the_flow(family_name: str) -> None:
    family = FAMILIES[family_name]
    model, images = family.build().eval(), family.images()
    explainer = vi.AttentionFlow(model)
    result = explainer.patch_map(images).flatten(1)
    with torch.no_grad(), vi.record_attention(model) as record:
        model(images)
    pool = record.pool_calls[-1].attention() if record.pool_calls else None
    readout = record.layout.readout_weights(pool).expand(2, -1)
    for index in range(2):
        matrices = [
            0.5 * call.attention()[index].mean(0) + 0.5 * torch.eye(family.tokens) for call in record.calls
        ]
        flow = attention_flow(matrices, readout[index])
        assert torch.allclose(result[index].double(), (flow / flow.sum())[family.prefix :], atol=1e-6)
