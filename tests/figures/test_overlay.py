"""Maps are placed correctly on the original image, with their raw values."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize

from tests.helpers.drawn import COLS, LAYOUT, PLACES, ROWS, N, centers, drawn, prepared
from vit_interactions import figures


@pytest.mark.parametrize(("size", "left", "top"), PLACES, ids=["portrait", "landscape"])
@pytest.mark.parametrize("more_is_relevant", [True, False])
@pytest.mark.parametrize("hot", [(0, 0), (1, 4), (3, 5)])
def test_relevant_patch_is_brightest_at_its_position(size, left, top, more_is_relevant, hot):
    values = torch.zeros(ROWS, COLS)
    values[hot] = 1.0 if more_is_relevant else -1.0
    _, color = drawn(
        lambda axes: figures.draw_map(axes, prepared(size), values, LAYOUT, more_is_relevant=more_is_relevant)
    )
    brightness = {patch: color(*center).sum() for patch, center in centers(left, top).items()}
    assert max(brightness, key=brightness.get) == hot
    others = {value for patch, value in brightness.items() if patch != hot}
    assert len(others) == 1
    assert brightness[hot] > others.pop() + 200


@pytest.mark.parametrize("log", [False, True])
def test_smooth_maps_are_bilinear_on_their_scale(log):
    values = 10.0 ** (4 * torch.rand(ROWS, COLS, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    draw = partial(figures.draw_map, prepared=prepared((480, 320)), patch_map=values, layout=LAYOUT, log=log)
    axes, _ = drawn(partial(draw, norm=None if log else Normalize(0, 1e4), smooth=True))
    found = axes.images[-1].get_array()
    shades = (values.log10() - values.log10().min()) / np.ptp(values.log10().numpy()) if log else values / 1e4
    assert found.shape == (32, 48, 4)
    for y, x in np.ndindex(32, 48):  # of 8 x 8 pixels per patch
        row, col = (min(max((at + 0.5) / 8 - 0.5, 0), last) for at, last in ((y, ROWS - 1), (x, COLS - 1)))
        shade = sum(
            float(shades[i, j]) * max(0, 1 - abs(row - i)) * max(0, 1 - abs(col - j))
            for i in range(ROWS)
            for j in range(COLS)
        )
        expected = np.array(colormaps["inferno"](shade, bytes=True)[:3], int)
        assert np.abs(found[y, x, :3].astype(int) - expected).max() <= 5  # one of 256 colors
    assert axes.child_axes[0].get_ylabel().endswith("interpolated between patches")


def test_smooth_maps_keep_the_marks_and_the_scale_of_their_patches():
    layout = replace(LAYOUT, rows=8, cols=12)
    values = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    values[2, 3] = 50.0
    (plain, _), (smooth, _) = (
        drawn(lambda axes, s=s: figures.draw_map(axes, prepared((480, 320)), values, layout, smooth=s))
        for s in (False, True)
    )
    [one], [other] = plain.collections, smooth.collections
    assert len(one.get_paths()) == len(other.get_paths()) == 1
    assert np.array_equal(one.get_paths()[0].vertices, other.get_paths()[0].vertices)
    assert plain.child_axes[0].get_ylim() == smooth.child_axes[0].get_ylim()
    # Only up to the limit of the scale: the color of the extreme patch does not cover its neighbors.
    colors = [axes.images[-1].get_array() for axes in (plain, smooth)]
    near = colors[1][2 * 4 : 3 * 4, 4 * 4 + 2]
    assert np.abs(near.astype(int) - colors[0][2, 4]).max() < np.abs(near.astype(int) - colors[0][2, 3]).max()


def test_smooth_constant_maps_are_transparent():
    axes, _ = drawn(
        lambda axes: figures.draw_map(
            axes, prepared((480, 320)), torch.full((ROWS, COLS), 0.3), LAYOUT, smooth=True
        )
    )
    assert (axes.images[-1].get_array()[..., 3] == 0).all()


@pytest.mark.parametrize("noise", [0.0, 1e-9])
@pytest.mark.parametrize("value", [0.0, 0.3, -5.0])
def test_constant_maps_show_no_structure(noise, value):
    values = torch.full((ROWS, COLS), value, dtype=torch.float64)
    values[::2] *= 1 + noise
    axes, color = drawn(lambda axes: figures.draw_map(axes, prepared((480, 320)), values, LAYOUT, label="a"))
    assert len({tuple(color(*center)) for center in centers(0, 0).values()}) == 1
    assert (axes.images[-1].get_array()[..., 3] == 0).all()  # the image stays visible
    [bar] = axes.child_axes
    np.testing.assert_allclose(bar.get_yticks(), [value], atol=1e-6)


def test_color_bar_shows_raw_values_with_label():
    values = torch.linspace(2.0, 7.0, N).reshape(ROWS, COLS)
    draw = figures.draw_map
    axes, _ = drawn(
        lambda axes: draw(axes, prepared((480, 320)), values, LAYOUT, label="a", more_is_relevant=False)
    )
    [bar] = axes.child_axes
    assert bar.get_ylim() == (7.0, 2.0)  # the minimum is bright and at the top
    assert bar.get_ylabel() == "a\n(lower is more relevant)"
    axes, _ = drawn(
        lambda axes: draw(axes, prepared((480, 320)), 10.0 ** (5 * values), LAYOUT, label="U", log=True)
    )
    [bar] = axes.child_axes
    assert bar.get_ylabel() == "U (log scale)\n▼ below the range"
    np.testing.assert_allclose(bar.get_ylim(), (1e27, 1e35))


@pytest.mark.parametrize("more_is_relevant", [True, False])
def test_signed_maps_get_symmetric_diverging_colors(more_is_relevant):
    values = torch.zeros(ROWS, COLS)
    values[0, 0], values[1, 1], values[3, 5] = 4.0, 2.0, -2.0
    values *= 1 if more_is_relevant else -1
    draw = figures.draw_map
    axes, color = drawn(
        lambda axes: draw(axes, prepared((480, 320)), values, LAYOUT, more_is_relevant=more_is_relevant)
    )
    at = centers(0, 0)
    zero, most, half, opposite = (color(*at[patch]) for patch in ((2, 2), (0, 0), (1, 1), (3, 5)))
    assert np.ptp(zero) < 6  # neutral
    assert most[0] - most[2] > half[0] - half[2] > 40  # red
    assert opposite[2] - opposite[0] > 40  # blue
    assert abs(np.abs(half - zero).sum() - np.abs(opposite - zero).sum()) < 60  # equally far from zero
    assert axes.child_axes[0].get_ylim() == ((-4, 4) if more_is_relevant else (4, -4))


def test_given_norm_is_kept_and_extends_at_exceeded_ends():
    scale = Normalize(0, 10)
    same = []
    for values in (torch.full((ROWS, COLS), 5.0), torch.linspace(-5, 15, N).reshape(ROWS, COLS)):
        values[0, 0] = 5.0
        figure = partial(figures.draw_map, prepared=prepared((480, 320)), patch_map=values, layout=LAYOUT)
        axes, color = drawn(partial(figure, norm=scale))
        same.append(tuple(color(*centers(0, 0)[0, 0])))
        [bar] = axes.child_axes
        assert bar.get_ylim() == (0, 10)
        assert len(bar.get_yticks()) > 2
    assert same[0] == same[1]
    whole = figures.map_figure(prepared((480, 320)), values, LAYOUT, norm=scale)
    assert whole.axes[1].child_axes[0].get_ylim() == (0, 10)
    assert bar._colorbar.extend == "both"


def test_long_labels_fit_next_to_the_map():
    label = "convergence of the tendency (> 0: neighbors' fields point here)"
    values = torch.linspace(-1, 1, N).reshape(ROWS, COLS)
    figure = figures.map_figure(prepared((480, 320)), values, LAYOUT, label=label)
    FigureCanvasAgg(figure).draw()
    [bar] = figure.axes[1].child_axes
    text, panel = bar.yaxis.label.get_window_extent(), figure.axes[1].get_window_extent()
    assert bar.get_ylabel().split() == label.split()
    assert panel.y0 <= text.y0 < text.y1 <= panel.y1


def test_integer_maps_get_integer_ticks():
    counts = torch.arange(N).reshape(ROWS, COLS) % 3
    axes, _ = drawn(lambda axes: figures.draw_map(axes, prepared((480, 320)), counts, LAYOUT))
    assert {tick for tick in axes.child_axes[0].get_yticks() if 0 <= tick <= 2} == {0, 1, 2}
