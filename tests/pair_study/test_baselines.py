"""Baselines of pairs, derived again."""

import pytest
import torch

from tests.helpers.explaining import images, small_vit
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
    found = model_baselines(model, inputs, 2)
    attention, product = (each[0] for each in mean_attention(model, inputs, 2))
    assert torch.equal(found["attention_x_gradient"], product)
    assert torch.equal(found["mean_attention"], attention)
    saliency = GenericAttention(model).patch_map(inputs, 2).flatten().double()
    for i, j in [(0, 5), (3, 2)]:
        assert float(found["saliency_product"][i, j]) == pytest.approx(float(saliency[i] * saliency[j]))


def test_free_baselines() -> None:
    found = free_baselines((3, 4), seed=1)
    assert float(found["closeness"][1, 10]) == pytest.approx(-(5**0.5))  # two rows down, one column right
    assert torch.equal(found["closeness"], found["closeness"].T)
    assert torch.equal(found["random"], free_baselines((3, 4), seed=1)["random"])
    assert not torch.equal(found["random"], free_baselines((3, 4), seed=2)["random"])
    assert {*found, "saliency_product", "attention_x_gradient", "mean_attention", "first_order_product"} == set(
        PASSES
    )
