"""The interaction curve and its labels."""

from itertools import pairwise

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import vit_interactions as vi
from tests.helpers.drawn import drawn
from vit_interactions import figures


def test_curve():
    operations = torch.tensor([[100, 40, 10], [100, 60, 30]])
    curve = vi.InteractionCurve((1.0, 0.1, 0.01), operations, 100)
    axes, _ = drawn(lambda axes: figures.draw_curve(axes, curve))
    pairs, mean = axes.lines
    assert set(pairs.get_ydata()) == {100}
    assert mean.get_xdata().tolist() == [0.01, 0.1, 1.0]
    assert mean.get_ydata().tolist() == [20, 50, 100]
    spread = axes.collections[0].get_paths()[0].vertices
    assert {(0.1, 40.0), (0.1, 60.0), (0.01, 10.0), (0.01, 30.0)} <= set(map(tuple, spread.tolist()))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    from_zero = vi.InteractionCurve((0.0, 1.0), operations[:1, :2], 100)
    axes, _ = drawn(lambda axes: figures.draw_curve(axes, from_zero, scale="log"))
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    with pytest.raises(ValueError, match='`scale` must be "linear" or "log", got \'sqrt\''):
        figures.curve_figure(curve, scale="sqrt")  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [2.5, 5.5, 12])
@pytest.mark.parametrize(
    "alphas",
    [
        (0.02, 0.025, 0.03),
        (0.01, 0.025, 0.035, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0),
        (0.0, 0.01, 0.02, 0.98, 1.0),
        tuple(k / 40 for k in range(1, 41)),
    ],
    ids=len,
)
def test_labels_of_close_alphas_do_not_overlap_and_both_ends_are_labeled(alphas, width):
    curve = vi.InteractionCurve(alphas, torch.full((2, len(alphas)), 5), 9)
    figure = figures.curve_figure(curve)
    figure.set_size_inches(width, 3.8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    assert all(left.x1 + 3 < right.x0 for left, right in pairwise(boxes))
    assert (labels[0].get_text(), labels[-1].get_text()) == (f"{alphas[0]:g}", f"{alphas[-1]:g}")
    assert figure.axes[0].get_xticks().tolist() == list(alphas)
    if width == 12 and len(alphas) < 10 and alphas[0] > 0:
        assert len(labels) == len(alphas)  # all labels fit
