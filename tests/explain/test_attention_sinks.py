"""Attention sinks of whole models: against recorded attention, for every family, and planted ones."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.families import Family
from tests.helpers.planted import SIZE, looking_model, painted
from vit_interactions import attention_sinks, record_attention


def test_equals_the_column_means_of_the_recorded_attention(family: Family) -> None:
    model, inputs = family.build(), family.images(batch=2)
    sinks = attention_sinks(model, inputs)
    with record_attention(model) as record, torch.no_grad():
        model(inputs)
    assert (sinks.grid, sinks.prefix) == (family.grid, family.prefix)
    assert sinks.layers == tuple(call.name for call in record.calls)
    for layer, call in enumerate(record.calls):
        patches = call.attention()[:, :, family.prefix :]
        torch.testing.assert_close(sinks.received[:, layer], patches.mean(-2) * family.tokens)
        torch.testing.assert_close(sinks.value_norms[:, layer], call.value.norm(dim=-1))
    torch.testing.assert_close(sinks.received.mean(-1), torch.ones(2, family.layers, family.heads))
    assert sinks.patches.shape == (2, family.grid[0] * family.grid[1])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_planted_sink_is_found(name: str) -> None:
    model = looking_model((4, 4), looks_for=1, silent=(3, 3), name=name)
    images = torch.cat(
        [painted(torch.zeros(1, 3, SIZE, SIZE), (1, 2), 1, value=4.0), torch.zeros(1, 3, SIZE, SIZE)]
    )
    sinks = attention_sinks(model, images)
    assert sinks.patches.nonzero().tolist() == [[0, 1 * 4 + 2]]
    assert not sinks.tokens[:, : sinks.prefix].any()


def test_a_sink_in_a_prefix_token_is_no_patch() -> None:
    model: Any = looking_model((4, 4), looks_for=1, silent=(3, 3))
    with torch.no_grad():
        model.cls_token[..., 1] = 4.0
    sinks = attention_sinks(model, torch.zeros(1, 3, SIZE, SIZE))
    assert sinks.tokens.nonzero().tolist() == [[0, 0]]
    assert not sinks.patches.any()


def test_runs_the_model_once_and_leaves_it_unchanged() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = looking_model((4, 4), looks_for=1, silent=(3, 3))

        def forward(self, x: torch.Tensor, shift: float) -> torch.Tensor:
            passes.append(tuple(x.shape))
            logits: torch.Tensor = self.vit(x + shift)
            return logits

    passes: list[tuple[int, ...]] = []
    model = Counting()
    images = torch.rand(2, 3, SIZE, SIZE)
    before = images.clone()
    attention_sinks(model, images, 0.5)
    passes.clear()  # the first call also probes the model
    attention_sinks(model, images, 0.5)
    assert passes == [(2, 3, SIZE, SIZE)]
    assert torch.equal(images, before)
