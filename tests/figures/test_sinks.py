"""Attention sinks are marked with an x at their place on the image."""

import pytest
import torch

from tests.helpers.drawn import COLS, LAYOUT, PLACES, ROWS, N, centers, drawn, prepared
from vit_interactions import figures
from vit_interactions.figures.sinks import LEGEND


@pytest.mark.parametrize(("size", "left", "top"), PLACES, ids=["portrait", "landscape"])
def test_marks_are_at_the_centers_of_the_sinks(size, left, top):
    sinks = torch.zeros(N, dtype=torch.bool)
    sinks[[1, COLS + 4]] = True
    axes, _ = drawn(lambda axes: figures.mark_sinks(axes, prepared(size), LAYOUT, sinks))
    [marks] = axes.lines
    expected = centers(left, top)
    assert marks.get_marker() == "x"
    assert [tuple(place) for place in marks.get_xydata()] == [
        pytest.approx(expected[0, 1]),
        pytest.approx(expected[1, 4]),
    ]
    assert [text.get_text() for text in axes.texts] == [LEGEND]


@pytest.mark.parametrize("sinks", [None, torch.zeros(N, dtype=torch.bool)])
def test_without_sinks_nothing_is_drawn(sinks):
    axes, _ = drawn(lambda axes: figures.mark_sinks(axes, prepared((480, 320)), LAYOUT, sinks))
    assert not axes.lines
    assert not axes.texts


def test_map_figures_mark_the_map_and_not_the_image():
    sinks = torch.zeros(N, dtype=torch.bool)
    sinks[3] = True
    figure = figures.map_figure(prepared((480, 320)), torch.rand(ROWS, COLS), LAYOUT, sinks=sinks)
    image, shown = figure.axes[:2]
    assert len(image.lines) == 0
    assert len(shown.lines) == 1


def test_excluded_patches_are_not_among_the_dropped_ones():
    uncertainty = torch.rand(N, N)
    uncertainty[:, 2] = 0.0
    exclude = torch.zeros(1, N, dtype=torch.bool)
    exclude[0, 2] = True
    figure = figures.indiscriminative_figure(prepared((480, 320)), uncertainty, LAYOUT, (1.0,), exclude=exclude)
    titles = [axes.get_title() for axes in figure.axes]
    assert any(f"{N - 1} of {N} dropped" in title for title in titles)
