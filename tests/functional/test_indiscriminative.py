"""Patches with the lowest variance are dropped, with ties by index."""

import pytest
import torch

from tests.helpers import references
from tests.helpers.references import random_uncertainty
from vit_interactions.functional import (
    column_variance,
    indiscriminative_patches,
    informativeness,
)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_beta_is_the_fraction_of_dropped_patches(beta: float) -> None:
    dropped = indiscriminative_patches(random_uncertainty((5, 4), batch=3), beta)
    assert dropped.sum(1).tolist() == [references.share(beta, 20)] * 3


def test_columns_with_the_lowest_variance_are_dropped() -> None:
    # Columns: variance 0, 1, 4, 1/4 (population variance of {a, b} repeated is ((b − a)/2)²).
    values = torch.tensor(
        [[[5.0, 0.0, 0.0, 0.0], [5.0, 2.0, 4.0, 1.0], [5.0, 0.0, 0.0, 0.0], [5.0, 2.0, 4.0, 1.0]]]
    )
    assert column_variance(values).tolist() == [[0.0, 1.0, 4.0, 0.25]]
    assert informativeness(values).tolist() == [[5.0, 1.0, 2.0, 0.5]]
    assert indiscriminative_patches(values, 0.25).tolist() == [[True, False, False, False]]
    assert indiscriminative_patches(values, 0.5).tolist() == [[True, False, False, True]]
    # The row variances are 75/16 and 5/2, so mistaking rows for columns would drop other patches.
    assert indiscriminative_patches(values.mT, 0.5).tolist() == [[False, True, False, True]]


def test_ties_of_variance_drop_the_lowest_index() -> None:
    values = torch.zeros(1, 5, 5)
    values[0, 0] = torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0])
    assert indiscriminative_patches(values, 0.4).tolist() == [[True, False, True, False, False]]
    assert indiscriminative_patches(torch.ones(1, 5, 5), 0.6).tolist() == [[True, True, True, False, False]]


def test_excluded_patches_are_not_ranked() -> None:
    # Column variances 0, 1, 4, 1/4: without the first, the lowest is that of the last.
    values = torch.tensor(
        [[[5.0, 0.0, 0.0, 0.0], [5.0, 2.0, 4.0, 1.0], [5.0, 0.0, 0.0, 0.0], [5.0, 2.0, 4.0, 1.0]]]
    )
    exclude = torch.tensor([[True, False, False, False]])
    assert indiscriminative_patches(values, 0.25, exclude).tolist() == [[False, False, False, True]]
    assert indiscriminative_patches(values, 1.0, exclude).tolist() == [[False, True, True, True]]
    assert torch.equal(
        indiscriminative_patches(values, 0.5, exclude & False), indiscriminative_patches(values, 0.5)
    )
