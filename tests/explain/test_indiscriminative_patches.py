"""Indiscriminative patches against their equation."""

import pytest

from tests.helpers import references
from tests.helpers.families import Family
from vit_interactions import (
    IndiscriminativePatches,
    InteractionUncertainty,
)


@pytest.mark.parametrize("beta", [0.2, 0.5])
def test_dropped_patches_are_the_equation_on_u(family: Family, beta: float) -> None:
    model, inputs = family.build(), family.images()
    values = InteractionUncertainty(model).uncertainty(inputs)
    gone = IndiscriminativePatches(model).dropped(inputs, beta=beta)
    assert gone.shape == (2, *family.grid)
    for b, image in enumerate(values.double().tolist()):
        assert set(gone[b].flatten().nonzero().flatten().tolist()) == references.dropped(image, beta)
