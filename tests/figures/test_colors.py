"""The colors of a map without a scale."""

import matplotlib
import numpy as np
import pytest

from vit_interactions.figures.colors import map_colors


def test_colours_run_from_a_maps_smallest_to_its_largest_value() -> None:
    values = np.random.default_rng(0).random((3, 5)) + 2
    share = (values - values.min()) / (values.max() - values.min())
    expected = matplotlib.colormaps["inferno"](share, bytes=True)[..., :3]
    assert np.abs(map_colors(values).astype(int) - expected).max() <= 1
    assert (map_colors(values) == map_colors(1000 * values - 7)).mean() > 0.9  # by itself, whatever its units


def test_colours_of_both_signs_are_neutral_at_zero() -> None:
    negative, zero, positive = map_colors(np.array([[-1.0, 0.0, 4.0]]))[0].astype(int)
    assert np.ptp(zero) < 6  # grey
    assert positive[0] > positive[2] + 50  # red: the largest of either sign
    assert negative[2] > negative[0]  # bluish only: a quarter of the way
    assert np.abs(map_colors(np.array([[0.0, 1.0]]))[0, 0].astype(int) - [0, 0, 4]).max() <= 1  # inferno's darkest


def test_a_constant_map_has_one_colour() -> None:
    assert len(np.unique(map_colors(np.full((3, 4), 0.25)).reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(
    ("values", "message"), [(np.ones(3), r"\(rows, cols\)"), (np.full((2, 2), np.nan), "finite")]
)
def test_colors_require_a_map(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_colors(values)
