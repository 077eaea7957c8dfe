"""Tests of finding the tokens that a score is read from, for heads with known results."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.twins import Outer, assert_twins, vit
from vit_interactions.attention.graph import ancestors, node_of
from vit_interactions.attention.probing.readout import Reading, read_tokens

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def read(head: Any, dtype: torch.dtype = torch.float64, tokens: int = 5) -> Reading:
    """Read a function of normed tokens (1, tokens, 6)."""
    generator = torch.Generator().manual_seed(3)
    layer = torch.randn(1, tokens, 6, generator=generator).to(dtype).requires_grad_()
    score = head(F.layer_norm(layer * 2, (6,)))
    score = (score * torch.randn(score.shape, generator=generator).to(dtype)).sum()
    return read_tokens(score, [layer], list(ancestors([score.grad_fn], {node_of(layer): 1}, 1)), tokens)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("head", "groups"),
    [
        (lambda x: x[:, 0], [[0]]),
        (lambda x: x[:, -1], [[4]]),
        (lambda x: x.mean(1), [[0, 1, 2, 3, 4]]),
        (lambda x: x[:, 1:].mean(1), [[1, 2, 3, 4]]),
        (lambda x: torch.cat((x[:, 0], x[:, 1:].mean(1)), 1), [[0], [1, 2, 3, 4]]),
    ],
)
def test_tokens_that_are_read_alike_are_one_group(head: Any, groups: list[list[int]], dtype: torch.dtype) -> None:
    assert read(head, dtype) == Reading(groups)


def test_a_head_that_weighs_each_token_has_many_groups() -> None:
    assert len(read(lambda x: x.flatten(1)).groups) == 3


def test_many_tokens_in_another_order_are_told_by_their_place_in_the_layer() -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    found = read(lambda x: F.gelu(x[:, order])[:, 7], tokens=200)
    assert found == Reading([[int(order[7])]])


def test_tokens_that_mix_behind_the_layer_are_not_apart() -> None:
    assert not read(lambda x: F.gelu(x + x.roll(1, 1))[:, 0]).apart
    assert not read(lambda x: F.gelu(x + 0.01 * x.mean(1, keepdim=True))[:, 0]).apart


def test_a_second_way_to_the_score_is_noticed() -> None:
    def head(x: Tensor) -> Tensor:
        return F.layer_norm(x * 3, (6,))[:, 0] + x[:, 1:].mean(1)

    assert not read(head).complete


HEADS: dict[str, tuple[dict[str, Any], Any]] = {
    "class token": ({"global_pool": "token"}, lambda x: x[:, 0]),
    "mean": ({"global_pool": "avg", "fc_norm": False}, lambda x: x[:, 1:].mean(1)),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_ones_own_is_explained_like_the_models_own(name: str) -> None:
    options, pool = HEADS[name]
    twin = vit(**options)
    features = vit(**options)
    head = features.head
    features.global_pool, features.head = "", nn.Identity()
    features.reset_classifier(0, "")

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit, self.fc = features, head

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(pool(self.vit.forward_features(x)))

    assert vi.probe(Own().eval(), (64, 64)).layout.readout == vi.probe(twin, (64, 64)).layout.readout
    assert_twins(Own().eval(), twin)


def test_the_class_token_beside_the_mean_is_half_each() -> None:
    model = Outer(vit(num_classes=0, global_pool=""), after=lambda x: torch.cat((x[:, 0], x[:, 1:].mean(1)), 1))
    weights = vi.probe(model, (64, 64)).layout.readout_weights()
    torch.testing.assert_close(weights, torch.tensor([[0.5] + [1 / 32] * 16]))


def test_a_head_that_starts_at_zero_reads_what_it_will_read() -> None:
    for pool, readout in (("token", "token"), ("avg", "avg")):
        model = timm.create_model("test_vit", num_classes=3, global_pool=pool)
        nn.init.zeros_(model.head.weight)
        assert vi.probe(model, (160, 160)).layout.readout == readout
