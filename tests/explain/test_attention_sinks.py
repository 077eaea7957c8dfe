"""Attention sinks of whole models: against recorded attention, for every family, and planted ones."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.families import Family
from tests.helpers.planted import SIZE, looking_model, painted
from vit_interactions import InteractionUncertainty, attention_sinks, record_attention


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


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_medium_patch16_reg4_gap_256"])
def test_a_sink_in_a_register_is_a_prefix_token_and_no_patch(name: str) -> None:
    """Four registers, with and without a class token before them; all heads attend to the third register."""
    model: Any = looking_model((4, 4), looks_for=1, silent=(3, 3), name=name, patch_size=16)
    black = torch.zeros(1, 3, SIZE, SIZE)
    with_patch = painted(black, (1, 2), 1, value=4.0)
    registers = 0 if model.cls_token is None else 1  # index of the first
    assert attention_sinks(model, black).prefix == registers + 4
    assert attention_sinks(model, with_patch).tokens.nonzero().tolist() == [[0, registers + 4 + 1 * 4 + 2]]
    with torch.no_grad():
        model.reg_token[0, 2, 1] = 8.0
    plain, without = (InteractionUncertainty(model, exclude_sinks=chosen) for chosen in (False, True))
    for images in (black, with_patch):  # the register takes the attention of the patch, too
        sinks = attention_sinks(model, images)
        assert sinks.tokens.nonzero().tolist() == [[0, registers + 2]]
        assert (
            sinks.is_sink[:, 0].nonzero()[:, -1].tolist() == [registers + 2] * 2
        )  # of both heads of the first layer
        assert not sinks.patches.any()
        assert f"<td>none</td><td>{registers + 2}</td>" in sinks._repr_html_()
        assert torch.equal(plain.uncertainty(images), without.uncertainty(images))


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
