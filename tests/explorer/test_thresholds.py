"""Slider steps: relevant pairs are exact, and shown values have a known error."""

import numpy as np
import pytest
import torch

from vit_interactions.explorer.thresholds import (
    alpha_steps,
    beta_steps,
    first_relevant_step,
    largest_error,
    step_means,
)
from vit_interactions.functional.windows import relevant_pairs


@pytest.mark.parametrize("levels", [None, 3])
def test_alpha_steps_match_relevant_pairs_exactly(levels: int | None) -> None:
    values = torch.rand(1, 12, 12, dtype=torch.float64)
    values = values if levels is None else (values * levels).floor()  # ties: the lowest flat index first
    alphas = alpha_steps(0.0537, 144)
    assert alphas == sorted(set(alphas))
    assert (alphas[0], alphas[-1]) == (0.0, 1.0)
    assert len(alphas) <= 256
    steps = torch.from_numpy(first_relevant_step(values[0], alphas))
    for step, alpha in enumerate(alphas):
        assert torch.equal(steps <= step, relevant_pairs(values, alpha)[0])


@pytest.mark.parametrize("pairs", [1, 4, 38_416, 37**4, 64**4])
def test_steps_fit_into_a_byte_and_start_with_one_pair(pairs: int) -> None:
    alphas = alpha_steps(0.1, pairs)
    assert len(alphas) <= 256
    assert 0.1 in alphas
    assert round(alphas[1] * pairs) <= 1
    assert (beta_steps(0.2)[0], beta_steps(0.2)[-1], len(beta_steps(0.2))) == (0.0, 1.0, 101)


def test_shown_u_is_the_mean_of_its_step_with_a_known_error() -> None:
    values = torch.rand(9, 9, dtype=torch.float64) ** 6
    steps = first_relevant_step(values, [0.0, 0.01, 0.3, 1.0])
    shown = step_means(values, steps, 4)
    assert np.isnan(shown[0])
    worst = 0.0
    for step in (1, 2, 3):
        members = [values[p, q].item() for p in range(9) for q in range(9) if steps[p, q] == step]
        assert shown[step] == pytest.approx(sum(members) / len(members))
        worst = max(worst, *(abs(shown[step] - member) for member in members))
    assert largest_error(values, steps, shown) == pytest.approx(worst / values.max().item())
    assert largest_error(torch.zeros(2, 2), np.ones((2, 2), np.uint8), np.zeros(2)) == 0.0
