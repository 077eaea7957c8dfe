"""Color scales of values."""

import numpy as np
import pytest
from matplotlib.colors import LogNorm

from vit_interactions.figures.values import is_symmetric, linear_scale, log_scale


def test_scales():
    assert isinstance(log_scale(np.array([0.0, 1.0, 2.0]), 4), LogNorm)
    for unfit in ([0.0, 0.0], [-1.0, 1.0], [0.0, 1.0]):
        assert not isinstance(log_scale(np.array(unfit), 4), LogNorm)
    scale = linear_scale(np.array([3.0, 3.0]))
    assert scale(3.0) == pytest.approx(0.5, abs=0.01)


def test_rounding_errors_below_zero_do_not_give_diverging_colors():
    for values in ([0.0, 1.0], [-1e-9, 1.0], [-1.0, 0.0], [-1.0, 1e-9], [0.3, 0.3], [0.0, 0.0]):
        assert not is_symmetric(linear_scale(np.array(values))), values
    assert is_symmetric(linear_scale(np.array([-1e-3, 1.0])))
