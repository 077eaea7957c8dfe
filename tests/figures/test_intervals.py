"""Panels of means with intervals."""

from math import nan

import numpy as np

from vit_interactions.figures.intervals import intervals_figure


def test_each_mean_is_a_point_on_its_interval() -> None:
    panel = {"real": (0.5, 0.4, 0.7), "shuffled": (0.25, 0.2, 0.3), "undefined": (nan, nan, nan)}
    figure = intervals_figure(
        {"α = 0.1": {"size": panel, "cosine": panel}, "α = 0.2": {"size": panel, "cosine": panel}}
    )
    assert [axes.get_title() for axes in figure.axes] == ["size", "cosine", "size", "cosine"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["α = 0.1", "", "α = 0.2", ""]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["real", "shuffled", "undefined"]
    drawn = [np.asarray(line.get_xdata()).tolist() for line in axes.lines[:4]]
    assert drawn == [[0.4, 0.7], [0.5], [0.2, 0.3], [0.25]]
    assert axes.lines[0].get_ydata()[0] == 0
    low, high = sorted(axes.get_ylim())
    assert axes.get_ylim() == (high, low)  # the first on top
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    np.testing.assert_allclose([band.x0, band.x1], [0.4, 0.7])
    figure.draw_without_rendering()
