"""Tendencies of responsive fields against their equation."""

import math

import pytest
import torch

from tests.helpers import references
from tests.helpers.families import Family
from vit_interactions import (
    InteractionUncertainty,
    ResponsiveFieldTendency,
)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.2), (0.03, 0.5)])
def test_tendencies_are_the_equation_on_u(family: Family, alpha: float, beta: float) -> None:
    model, inputs = family.build(), family.images()
    values = InteractionUncertainty(model).uncertainty(inputs)
    rows, cols = family.grid
    tendencies = ResponsiveFieldTendency(model, alpha, beta)
    arrows, meet = tendencies.tendency(inputs), tendencies.patch_map(inputs)
    assert arrows.shape == (2, rows, cols, 2)
    for b, image in enumerate(values.double().tolist()):
        fields = references.fields(image, family.grid, alpha, beta)
        expected = torch.tensor([references.tendency(p, field, cols) for p, field in enumerate(fields)])
        torch.testing.assert_close(arrows[b].flatten(0, 1), expected, rtol=0, atol=1e-6)
        arrow = expected.view(rows, cols, 2).tolist()
        for y in range(rows):
            for x in range(cols):
                convergence = -(
                    slope([arrow[y][i][0] for i in range(cols)], x)
                    + slope([arrow[j][x][1] for j in range(rows)], y)
                )
                assert math.isclose(meet[b, y, x].item(), convergence, abs_tol=1e-5)


def slope(values: list[float], at: int) -> float:
    """Central difference inside, one-sided at the ends."""
    low, high = max(at - 1, 0), min(at + 1, len(values) - 1)
    return (values[high] - values[low]) / (high - low)


def test_convergence_of_a_single_row_has_no_slope_across_it() -> None:
    from vit_interactions.explain.responsive_field_tendency import convergence

    arrows = torch.tensor([[[[1.0, 0.5], [0.0, 0.5], [-1.0, 0.5]]]])
    assert convergence(arrows).tolist() == [[[1.0, 1.0, 1.0]]]
    assert convergence(arrows.transpose(1, 2).flip(-1)).tolist() == [[[1.0], [1.0], [1.0]]]
    assert convergence(-arrows).tolist() == [[[-1.0, -1.0, -1.0]]]
