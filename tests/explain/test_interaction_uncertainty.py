"""Interaction uncertainty against its equation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import references
from tests.helpers.explaining import observed
from tests.helpers.families import Family
from vit_interactions import (
    IndiscriminativePatches,
    InteractionUncertainty,
    record_attention,
)
from vit_interactions.functional import column_variance, uncertainty


def test_interaction_uncertainty_is_the_equation_on_the_models_attention(family: Family) -> None:
    model, inputs, attentions, _ = observed(family)
    explaining = InteractionUncertainty(model)
    result = explaining.uncertainty(inputs)
    expected = references.uncertainty(attentions, family.prefix)
    torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=1e-8)
    assert expected.max() > 1e-4
    assert torch.equal(result, explaining.uncertainty((inputs,)))
    torch.testing.assert_close(
        result, uncertainty([a.float() for a in attentions], family.prefix), rtol=1e-3, atol=1e-8
    )

    rows, cols = family.grid
    for patch in ((0, 0), (rows - 1, 1), (1, cols - 1)):
        row = explaining.patch_map(inputs, patch=patch)
        assert torch.equal(row.flatten(1), result[:, patch[0] * cols + patch[1]])
        assert row.shape == (2, rows, cols)
        assert explaining.attribute(inputs, patch=patch).shape == inputs.shape
    columns = [[[row[i] for row in image] for i in range(rows * cols)] for image in expected.tolist()]
    for explainer, value in (
        (InteractionUncertainty, lambda column: sum(column) / len(column)),
        (IndiscriminativePatches, references.variance),
    ):
        patch_map = explainer(model).patch_map(inputs).flatten(1).double()
        wanted = [[value(column) for column in image] for image in columns]
        torch.testing.assert_close(patch_map, torch.tensor(wanted).double(), rtol=1e-3, atol=1e-8)


def test_streaming_in_small_blocks_changes_nothing(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = family.build(), family.images()
    whole = InteractionUncertainty(model).uncertainty(inputs)
    monkeypatch.setattr("vit_interactions.functional.attention.CPU_BLOCK_ELEMENTS", 50)
    torch.testing.assert_close(InteractionUncertainty(model).uncertainty(inputs), whole, rtol=1e-4, atol=1e-9)


def test_column_variance_of_a_trained_model_is_the_variance_of_the_columns_of_u(
    trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    inputs = real_images(2)
    with torch.no_grad(), record_attention(trained_vit) as record:
        trained_vit(inputs)
    whole = torch.stack([call.attention().double() for call in record.calls])[..., 1:, 1:]
    expected = whole.var(0, correction=0).var(1, correction=0)
    values = InteractionUncertainty(trained_vit).uncertainty(inputs)
    torch.testing.assert_close(values.double(), expected, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(
        column_variance(values).double(), expected.var(1, correction=0), rtol=1e-3, atol=1e-12
    )
