"""Checksums of models."""

import copy

import torch
from torch import nn

from vit_interactions.utilities.checksum import checksum


def test_checksum_covers_names_types_shapes_and_values() -> None:
    def checksums(*models: nn.Module) -> set[str]:
        return {checksum(model) for model in models}

    model = nn.Linear(2, 3)
    assert checksums(model, copy.deepcopy(model)) == {checksum(model)}
    other_value = copy.deepcopy(model)
    other_value.bias.data[1] += 1e-7
    other_type = copy.deepcopy(model)
    other_type.bias = nn.Parameter(model.bias.data.view(torch.int32), requires_grad=False)  # the same bytes
    other_shape = copy.deepcopy(model)
    other_shape.weight.data = other_shape.weight.data.reshape(2, 3)  # the same bytes
    other_name = nn.Sequential(copy.deepcopy(model))
    assert len(checksums(model, other_value, other_type, other_shape, other_name)) == 5
