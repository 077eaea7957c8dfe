"""Tests of the base class: from values per patch to pixels."""

import torch

from tests.helpers import references
from tests.helpers.families import Family
from vit_interactions import (
    RawAttention,
)


def test_attribute_is_the_patch_map_resized_bilinearly(family: Family) -> None:
    explaining, inputs = RawAttention(family.build()), family.images(batch=1)
    resized = references.bilinear(explaining.patch_map(inputs)[0].tolist(), family.extent)
    height, width = family.size
    for channel in explaining.attribute(inputs)[0]:
        torch.testing.assert_close(channel.double(), resized[:height, :width], rtol=1e-4, atol=1e-6)
