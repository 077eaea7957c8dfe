"""Gradient rollout with most entries discarded, and generic attention from a later layer."""

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explicit_attention import explicit_layers


def test_discarding_and_starting_later(model: nn.Module, images: Tensor) -> None:
    assert not torch.allclose(
        vi.GradientRollout(model, discard=0.9).patch_map(images, target=1),
        vi.GradientRollout(model).patch_map(images, target=1),
    )
    layers = explicit_layers(model, images, target=1)
    last = torch.relu(layers[-1][0] * layers[-1][1]).mean(1)[:, 0, 1:]
    start = len(layers) - 1
    result = vi.GenericAttention(model, start_layer=start).patch_map(images, target=1).flatten(1)
    assert torch.allclose(result, last)
    with pytest.raises(ValueError, match=f"`start_layer` must be < {start + 1}"):
        vi.GenericAttention(model, start_layer=start + 1).patch_map(images, target=1)
