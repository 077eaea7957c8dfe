"""Responsive fields (Sec. 4.2, Eqs. 6, 7) against loops over the equations."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import references
from tests.helpers.host_reads import HostReads
from tests.helpers.references import random_uncertainty
from vit_interactions import InteractionUncertainty, responsive_field
from vit_interactions.functional import (
    adaptive_windows,
    column_variance,
    field_tendency,
    window_operations,
)
from vit_interactions.functional.responsive_field import field_from_windows

Reading = Literal["window", "candidates"]


def assert_equals_loops(
    values: Tensor, grid: tuple[int, int], alpha: float, beta: float, reading: Reading = "window"
) -> None:
    """Compare every part of the fields with loops."""
    result = responsive_field(values, grid, alpha, beta, reading)
    assert result.grid == grid
    for b, image in enumerate(values.tolist()):
        members = references.candidates(image, alpha)
        expected = references.fields(image, grid, alpha, beta, reading)
        as_sets = [set(row.nonzero().flatten().tolist()) for row in result.mask[b]]
        assert as_sets == expected
        assert [set(row.nonzero().flatten().tolist()) for row in result.candidates[b]] == members
        assert [tuple(box) for box in result.windows[b].tolist()] == [
            references.window(m, grid[1]) for m in members
        ]
        assert set(result.dropped[b].nonzero().flatten().tolist()) == references.dropped(image, beta)
        assert result.size[b].tolist() == [len(field) for field in expected]
        assert result.operations[b] == sum(len(field) for field in expected)
        tendency = [references.tendency(p, field, grid[1]) for p, field in enumerate(expected)]
        torch.testing.assert_close(result.tendency[b].double(), torch.tensor(tendency).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("reading", ["window", "candidates"])
@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.1, 0.2), (0.02, 0.5), (0.0, 0.0), (1.0, 0.3), (0.3, 1.0), (1.0, 0.0)]
)
@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (5, 3), (1, 7)])
def test_equals_the_equations_written_as_loops(
    grid: tuple[int, int], alpha: float, beta: float, reading: Reading
) -> None:
    assert_equals_loops(random_uncertainty(grid), grid, alpha, beta, reading)


def test_equals_the_loops_on_the_uncertainty_of_a_trained_model(
    trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    values = InteractionUncertainty(trained_vit).uncertainty(real_images(1)).double()
    assert_equals_loops(values, (14, 14), 0.05, 0.2)
    assert_equals_loops(values, (14, 14), 0.1, 0.2, "candidates")


def test_a_dropped_patch_stays_in_its_own_field_only() -> None:
    fields = responsive_field(random_uncertainty((3, 3)), (3, 3), alpha=1.0, beta=1 / 3)
    for image, dropped in zip(fields.mask, fields.dropped, strict=True):
        for patch in dropped.nonzero().flatten().tolist():
            assert image[:, patch].nonzero().flatten().tolist() == [patch]
    # The fields of 6 patches contain the 6 that are left, those of the 3 dropped ones also themselves.
    assert fields.operations.tolist() == [6 * 6 + 3 * 7] * 2


def test_dropped_operations_match_table_2() -> None:
    fields = responsive_field(random_uncertainty((10, 10), batch=1), (10, 10), alpha=1.0, beta=0.2)
    assert fields.operations.item() == 80 * 80 + 20 * 81


def test_with_beta_1_each_field_is_its_patch_without_direction() -> None:
    fields = responsive_field(random_uncertainty((3, 4)), (3, 4), alpha=1.0, beta=1.0)
    assert fields.size.eq(1).all()
    assert fields.tendency.eq(0).all()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0, (-(0.5**0.5), -(0.5**0.5))),  # from the center of 3 x 3 to the top left
        (1, (0.0, -1.0)),
        (3, (-1.0, 0.0)),
        (5, (1.0, 0.0)),
        (7, (0.0, 1.0)),
        (8, (0.5**0.5, 0.5**0.5)),
        (4, (0.0, 0.0)),
    ],
)
def test_tendency_points_to_where_the_field_extends(target: int, expected: tuple[float, float]) -> None:
    values = torch.zeros(1, 9, 9)
    values[0, 4, target] = 1.0
    fields = responsive_field(values, (3, 3), alpha=1 / 81, beta=0.0)
    torch.testing.assert_close(fields.tendency[0, 4], torch.tensor(expected))


def test_tendency_by_hand_for_fields_on_both_sides() -> None:
    # 1 x 5 and 5 x 1: the field of patch 1 of {0, ..., 4} extends 1 back and 3 forward; patch 2: 2 and 2, no direction.
    mask = torch.ones(1, 5, 5, dtype=torch.bool)
    assert field_tendency(mask, (1, 5))[0].tolist() == [[1, 0], [1, 0], [0, 0], [-1, 0], [-1, 0]]
    assert field_tendency(mask, (5, 1))[0].tolist() == [[0, 1], [0, 1], [0, 0], [0, -1], [0, -1]]
    # 2 x 3, the field of patch 0 is everything: 2 to the right, 1 down.
    slope = field_tendency(torch.ones(1, 6, 6, dtype=torch.bool), (2, 3))[0, 0]
    torch.testing.assert_close(slope, torch.tensor([2.0, 1.0]) / 5**0.5)


def test_transposing_the_image_swaps_the_components_of_the_tendency() -> None:
    rows, cols = 3, 5
    values = random_uncertainty((rows, cols))
    order = torch.arange(rows * cols).view(rows, cols).T.flatten()
    transposed = responsive_field(values[:, order][:, :, order], (cols, rows), alpha=0.05, beta=0.2)
    straight = responsive_field(values, (rows, cols), alpha=0.05, beta=0.2)
    assert torch.equal(transposed.tendency, straight.tendency[:, order].flip(-1))
    assert torch.equal(transposed.size, straight.size[:, order])


def test_fields_do_not_depend_on_the_batch() -> None:
    values = random_uncertainty((3, 4), batch=3)
    together = responsive_field(values, (3, 4))
    for b in range(3):
        alone = responsive_field(values[b : b + 1], (3, 4))
        assert torch.equal(alone.mask[0], together.mask[b])


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), True])
def test_fractions_outside_their_range_raise(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must lie in \[0, 1\], got"):
        responsive_field(torch.zeros(1, 4, 4), (2, 2), **{name: value})


def test_an_unknown_field_raises() -> None:
    with pytest.raises(ValueError, match='`field` must be "window" or "candidates", got \'box\''):
        responsive_field(torch.zeros(1, 4, 4), (2, 2), field="box")  # type: ignore[arg-type]


def test_wrong_shapes_grids_and_values_raise() -> None:
    with pytest.raises(ValueError, match=r"`uncertainty` must have shape .* got \(4, 4\)"):
        responsive_field(torch.zeros(4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"rows \* cols = 6 patches, got \(2, 2\)"):
        responsive_field(torch.zeros(1, 6, 6), (2, 2))
    with pytest.raises(ValueError, match="`uncertainty` must be finite"):
        responsive_field(torch.full((1, 4, 4), float("nan")), (2, 2))
    with pytest.raises(ValueError, match=r"`uncertainty` must have shape"):
        column_variance(torch.zeros(1, 4, 3))


def test_windows_cover_a_fraction_of_the_candidates() -> None:
    values = random_uncertainty((5, 5))
    paper = responsive_field(values, (5, 5), alpha=0.2)
    fields = responsive_field(values, (5, 5), alpha=0.2, coverage=0.8)
    assert torch.equal(fields.windows, adaptive_windows(values, (5, 5), 0.2, coverage=0.8))
    assert fields.candidates is not None
    assert paper.candidates is not None
    assert torch.equal(fields.candidates, paper.candidates)
    assert torch.equal(fields.dropped, paper.dropped)
    assert (fields.operations < paper.operations).all()
    assert torch.equal(responsive_field(values, (5, 5), alpha=0.2, coverage=1.0).mask, paper.mask)


def test_an_excluded_patch_opens_no_window_but_stays_inside_those_of_others() -> None:
    # Patches 0 to 4 in a row. Patch 4 matters most to all; without it, patch 0 responds to patch 2.
    values = torch.zeros(1, 5, 5)
    values[0, :, 4] = 1.0
    values[0, 0, 2] = 0.5
    exclude = torch.tensor([[False, False, False, False, True]])
    paper = responsive_field(values, (1, 5), alpha=6 / 25, beta=0.0)
    assert paper.size.tolist() == [[5, 4, 3, 2, 1]]
    field = responsive_field(values, (1, 5), alpha=1 / 25, beta=0.0, exclude=exclude)
    assert field.size.tolist() == [[3, 1, 1, 1, 1]]
    exclude = torch.tensor([[False, True, False, False, True]])
    field = responsive_field(values, (1, 5), alpha=1 / 25, beta=0.2, exclude=exclude)
    assert field.mask[0, 0].tolist() == [True, True, True, False, False]
    # Of the columns of variance 0, 1 is not ranked, and 0 has the lowest index.
    assert field.dropped.tolist() == [[True, False, False, False, False]]


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("field", ["window", "candidates"])
def test_the_host_waits_for_the_device_once_per_batch(field: Reading, excluded: bool) -> None:
    values = torch.rand(3, 12, 12)
    exclude = torch.rand(3, 12) < 0.2 if excluded else None
    with HostReads() as reads:
        fields = responsive_field(values, (3, 4), field=field, exclude=exclude)
        _ = fields.size, fields.operations, fields.tendency, window_operations(fields.windows)
    assert reads.found == ["aten._local_scalar_dense.default"]  # are all values finite?
    with HostReads() as reads:
        adaptive_windows(values, (3, 4), exclude=exclude)
    assert reads.found == ["aten._local_scalar_dense.default"]
    with HostReads() as reads:
        field_from_windows(fields.windows, fields.dropped, (3, 4))
    assert reads.found == []
    with HostReads() as reads:  # the count itself
        _ = fields.mask[fields.mask].sum().item(), fields.mask.nonzero()
    assert len(reads.found) == 3
