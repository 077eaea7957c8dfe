"""Sizes of responsive fields against their equation."""

import pytest
import torch

from tests.helpers import references
from tests.helpers.explaining import images, small_vit
from tests.helpers.families import Family
from vit_interactions import (
    Explainer,
    InteractionUncertainty,
    ResponsiveFieldSize,
    ResponsiveFieldTendency,
)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.2), (0.03, 0.5)])
def test_sizes_are_the_equation_on_u(family: Family, alpha: float, beta: float) -> None:
    model, inputs = family.build(), family.images()
    values = InteractionUncertainty(model).uncertainty(inputs)
    sizes = ResponsiveFieldSize(model, alpha, beta)
    for b, image in enumerate(values.double().tolist()):
        fields = references.fields(image, family.grid, alpha, beta)
        assert sizes.patch_map(inputs)[b].flatten().tolist() == [len(field) for field in fields]
        as_sets = [set(row.nonzero().flatten().tolist()) for row in sizes.field(inputs).mask[b]]
        assert as_sets == fields


@pytest.mark.parametrize("explainer", [ResponsiveFieldSize, ResponsiveFieldTendency])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fields_of_half_precision_models_are_fields(explainer: type[Explainer], dtype: torch.dtype) -> None:
    # Thresholds jump, so all that can be promised is a valid field.
    patch_map = explainer(small_vit().to(dtype)).patch_map(images().to(dtype))
    assert patch_map.dtype == torch.float32
    assert patch_map.isfinite().all()
    sizes = ResponsiveFieldSize(small_vit().to(dtype)).patch_map(images().to(dtype))
    assert ((sizes >= 1) & (sizes <= 16) & (sizes == sizes.round())).all()
