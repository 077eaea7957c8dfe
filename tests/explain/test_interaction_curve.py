"""Interaction curves, counted window by window."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import references
from tests.helpers.explaining import images, small_vit
from tests.helpers.families import Family
from vit_interactions import (
    InteractionUncertainty,
    interaction_curve,
    responsive_field,
)
from vit_interactions.functional import adaptive_windows, window_operations


def test_interaction_curve_counts_windows_one_by_one(families: dict[str, Family]) -> None:
    for name in ("vit", "non_square", "siglip"):
        family = families[name]
        model, inputs = family.build(), family.images(batch=3)
        alphas = (0.02, 0.1, 0.5, 1.0)
        curve = interaction_curve(model, inputs, alphas)
        patches = family.grid[0] * family.grid[1]
        assert curve.alphas == alphas
        assert curve.pairs == patches**2
        assert curve.operations.shape == (3, 4)
        for b in range(3):
            values = InteractionUncertainty(model).uncertainty(inputs[b : b + 1])
            for a, alpha in enumerate(alphas):
                members = references.candidates(values[0].tolist(), alpha)
                expected = references.operations([references.window(m, family.grid[1]) for m in members])
                assert curve.operations[b, a] == expected
                assert window_operations(adaptive_windows(values, family.grid, alpha)).item() == expected
        assert curve.operations[:, -1].eq(patches**2).all()
        assert curve.expected.dtype == torch.float64
        assert curve.expected.tolist() == [sum(column) / 3 for column in curve.operations.T.tolist()]


def test_interaction_curve_with_a_coverage_counts_smaller_windows() -> None:
    model, inputs = small_vit(), images()
    curve = interaction_curve(model, inputs, (0.05, 0.3), coverage=0.6)
    values = InteractionUncertainty(model).uncertainty(inputs)
    for a, alpha in enumerate((0.05, 0.3)):
        windows = adaptive_windows(values, (4, 4), alpha, coverage=0.6)
        assert torch.equal(curve.operations[:, a], window_operations(windows))
    assert (curve.expected <= interaction_curve(model, inputs, (0.05, 0.3)).expected).all()
    with pytest.raises(ValueError, match=r"`coverage` must lie in \[0, 1\], got 1.5"):
        interaction_curve(model, inputs, coverage=1.5)


def test_interaction_curve_with_beta_counts_fields() -> None:
    model, inputs = small_vit(), images()
    curve = interaction_curve(model, inputs, (0.05, 0.3), beta=0.25)
    values = InteractionUncertainty(model).uncertainty(inputs)
    for a, alpha in enumerate((0.05, 0.3)):
        expected = [
            sum(len(field) for field in references.fields(image, (4, 4), alpha, 0.25)) for image in values.tolist()
        ]
        assert curve.operations[:, a].tolist() == expected
        assert responsive_field(values, (4, 4), alpha, 0.25).operations.tolist() == expected
    assert (curve.operations < interaction_curve(model, inputs, (0.05, 0.3)).operations).all()


def test_interaction_curve_takes_any_iterable_of_batches() -> None:
    model, inputs = small_vit(), images(5)
    whole = interaction_curve(model, inputs)
    assert whole.alphas == (0.025, 0.05, 0.10, 0.20, 0.50, 1.0)
    for batches in (list(inputs.split(2)), (batch for batch in inputs.split(3)), tuple(inputs.split(1))):
        assert torch.equal(interaction_curve(model, batches).operations, whole.operations)


def test_operations_of_a_trained_model_are_near_those_measured_before(
    trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    alphas = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
    curve = interaction_curve(trained_vit, real_images(20).split(5), alphas)
    expected = dict(zip(alphas, curve.expected.tolist(), strict=True))
    assert curve.expected.diff().ge(0).all()
    assert expected[1.0] == 38_416
    # patch_interactions.md, section 8: other 20 images. Near saturation the choice hardly matters; where the
    # windows begin to close it does.
    assert 38_400 <= expected[0.5] <= 38_416
    assert expected[0.2] == pytest.approx(38_404, rel=0.01)
    assert expected[0.1] == pytest.approx(38_038, rel=0.05)
    assert expected[0.05] == pytest.approx(29_573, rel=0.25)
    assert expected[0.025] == pytest.approx(5_884, rel=0.5)
