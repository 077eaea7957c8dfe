"""Tests of properties of the score that TAM, both variants of Beyond Intuition, and LeGrad share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import tiny
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.beyond_intuition import BeyondIntuition
from vit_interactions.explain.legrad import LeGrad
from vit_interactions.explain.transition_attention import TransitionAttention

Make = Callable[[nn.Module], Explainer]


METHODS: dict[str, Make] = {
    "tam": lambda model: TransitionAttention(model, steps=3, start=0),
    "bi head": lambda model: BeyondIntuition(model, steps=3, start=1),
    "bi token": lambda model: BeyondIntuition(model, variant="token", steps=3, start=1),
    "legrad": LeGrad,
    "legrad model": lambda model: LeGrad(model, pool="model", layers="all"),
}


every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def vit(**options: Any) -> nn.Module:
    """Build a ViT of 3 x 3 patches, two blocks, two heads."""
    return tiny("vit_tiny_patch16_224", **{"img_size": 48, **options})


def images(batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest value."""
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def differs(actual: Tensor, expected: Tensor) -> bool:
    return bool((actual - expected).abs().max() > 1e-2 * expected.abs().max())


@every_method
def test_proportional_to_the_score_whatever_its_offset(make: Make) -> None:
    model, x = vit().double(), images().double()
    plain = make(model).patch_map(x, target=1)
    assert plain.min() >= 0
    with torch.no_grad():
        model.head.weight *= 3
        model.head.bias *= 3
    assert_near(make(model).patch_map(x, target=1), 3 * plain, 1e-9)
    with torch.no_grad():
        model.head.bias += 10
    assert_near(make(model).patch_map(x, target=1), 3 * plain, 1e-9)
    with torch.no_grad():
        model.head.weight *= -1 / 3
    assert differs(make(model).patch_map(x, target=1), plain)


@every_method
def test_classes_and_heads_weights_matter(make: Make) -> None:
    model, x = vit(), images()
    assert differs(make(model).patch_map(x, target=1), make(model).patch_map(x, target=2))
    before = make(model).patch_map(x, target=1)
    nn.init.normal_(model.head.weight)
    assert differs(make(model).patch_map(x, target=1), before)


@every_method
def test_a_target_is_needed(make: Make) -> None:
    with pytest.raises(ValueError, match="explains one score of the output"):
        make(vit()).patch_map(images())
    with pytest.raises(IndexError, match="for 5 classes, got 5"):
        make(vit()).patch_map(images(), target=5)
