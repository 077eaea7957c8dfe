"""Baselines of pairs, derived again."""

import pytest
import torch

from tests.helpers.explaining import images, small_vit
from tests.helpers.pair_studies import GRID, record_of
from vit_interactions import GenericAttention, record_attention
from vit_interactions.pair_study.baselines import (
    PASSES,
    free_baselines,
    mean_attention,
    model_baselines,
)


def test_attention_and_its_product_with_the_gradient_are_means() -> None:
    model, inputs = small_vit().double(), images().double()
    with record_attention(model) as record:
        output = model(inputs)
    expected, plain = torch.zeros(2, 2, 16, 16).double().unbind()
    for layer, call in enumerate(record.calls):
        product = call.attention() * record.attention_grad(layer, output[:, 3])
        for head in range(2):  # two heads, two layers
            expected += product[:, head, 1:, 1:].abs().detach() / 4
            plain += call.attention()[:, head, 1:, 1:].detach() / 4
    torch.testing.assert_close(mean_attention(model, inputs, 3), (plain, expected))


def test_model_baselines_take_values_of_both_patches() -> None:
    model, inputs = small_vit(), images(1)
    found = model_baselines(model, inputs, 2, torch.tensor([[0, 5], [3, 2]]))
    attention, product = (each[0].double() for each in mean_attention(model, inputs, 2))
    saliency = GenericAttention(model).patch_map(inputs, 2).flatten().double()
    for number, (i, j) in enumerate([(0, 5), (3, 2)]):
        expected = float(product[i, j] + product[j, i]) / 2
        assert float(found["attention_x_gradient"][number]) == pytest.approx(expected)
        plain = float(attention[i, j] + attention[j, i]) / 2
        assert float(found["mean_attention"][number]) == pytest.approx(plain)
        assert float(found["saliency_product"][number]) == pytest.approx(float(saliency[i] * saliency[j]))


def test_free_baselines() -> None:
    effects = record_of(0).effects
    found = free_baselines(effects, GRID, seed=1)
    assert torch.equal(found["first_order_product"], effects.first_order)
    i, j = effects.pairs[7].tolist()
    apart = ((i // 6 - j // 6) ** 2 + (i % 6 - j % 6) ** 2) ** 0.5
    assert float(found["closeness"][7]) == pytest.approx(-apart)
    assert torch.equal(found["random"], free_baselines(effects, GRID, seed=1)["random"])
    assert not torch.equal(found["random"], free_baselines(effects, GRID, seed=2)["random"])
    assert {*found, "saliency_product", "attention_x_gradient", "mean_attention"} == set(PASSES)
