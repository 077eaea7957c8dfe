"""Colors of maps: range, opacity and clipped patches, the same in every figure and page."""

import base64
import io
from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm, Normalize
from PIL import Image

from tests.helpers.compared import Compared
from tests.helpers.drawn import drawn, prepared
from vit_interactions import figures
from vit_interactions.attention import TokenLayout
from vit_interactions.compare.report.embedded import clipped_path, map_uri
from vit_interactions.compare.report.figures import grid_figure
from vit_interactions.explorer.render import row_limits
from vit_interactions.explorer.thresholds import slider_steps
from vit_interactions.figures.display import (
    FEW,
    ConstantScale,
    clipped,
    is_symmetric,
    linear_limits,
    linear_scale,
    log_scale,
    map_colors,
    map_scale,
    paint,
    palette,
    robust_limits,
    scale_remark,
    triangles,
)
from vit_interactions.utilities.arrays import Array

ROWS, COLS = 8, 12
LAYOUT = TokenLayout(prefix=1, rows=ROWS, cols=COLS, readout="token", extent=(32, 48))


def sink_map() -> Array:
    """Return an ordinary map with one attention sink, a thousand times higher."""
    values = np.random.default_rng(0).uniform(1, 2, (14, 14))
    values[3, 5] = 1500.0
    return values


def signed_map() -> Array:
    values = np.random.default_rng(1).normal(size=(ROWS, COLS))
    values[2, 3], values[0, 0], values[7, 11] = 0.0, -40.0, 3.5
    return values


def slow_limits(values: list[float]) -> tuple[float, float]:
    """Compute the limits of one row, value by value: as many as fit into 2% lie beyond each percentile."""
    ranked = sorted(values)
    low, high, count = ranked[0], ranked[-1], len(ranked)
    beyond = int(0.02 * (count - 1))
    lower, upper = ranked[beyond], ranked[count - 1 - beyond]
    if count < 50 or upper - lower <= 1e-6 * max(abs(low), abs(high)):
        return low, high
    half = (upper - lower) / 2
    return lower if lower - low > half else low, upper if high - upper > half else high


@pytest.mark.parametrize("count", [2, FEW - 1, FEW, 51, 101, 196, 1369])
def test_limits_match_a_slow_loop(count: int) -> None:
    draws = np.random.default_rng(count)
    rows = np.stack([draws.uniform(size=count), draws.lognormal(0, 2, count), -draws.lognormal(0, 2, count)])
    low, high = robust_limits(rows)
    for number, row in enumerate(rows):
        assert (low[number], high[number]) == slow_limits(row.tolist())
    assert (low[0], high[0]) == (rows[0].min(), rows[0].max())  # nothing to gain from clipping
    assert (high[1] < rows[1].max()) == (low[2] > rows[2].min()) == (count > FEW)


def test_at_most_two_percent_are_clipped_at_each_end() -> None:
    # Of 100 values, one fits beyond each percentile: 5 and 16. The range between them is 10.1 to 15. The step
    # to 16 is less than half of it, and that to 5 is more.
    values = np.array([[5.0, *np.linspace(10.1, 10.2, 97), 15.0, 16.0]])
    scale = linear_scale(values)
    below, above = clipped(values, scale)
    assert (scale.vmin, scale.vmax) == (10.1, 16.0)
    assert (below.sum(), above.sum()) == (1, 0)
    heavy = np.random.default_rng(0).lognormal(0, 2, (37, 37))
    below, above = clipped(heavy, linear_scale(heavy))
    assert 0.015 < above.mean() <= 0.02
    assert not below.any()
    assert (paint(heavy, linear_scale(heavy))[above] == paint(heavy.max(), linear_scale(heavy))).all()


def test_higher_values_are_brighter_and_more_opaque() -> None:
    values = np.sort(np.random.default_rng(0).lognormal(0, 1, 500))[None]
    for scale in (linear_scale(values), log_scale(values)):
        colors = paint(values, scale)[0].astype(int)
        luminance = colors[:, :3] @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(luminance) >= -0.5).all()
        assert (np.diff(colors[:, 3]) >= 0).all()
        assert (paint(values, scale, more_is_relevant=False)[0, ::-1, 3] >= colors[::-1, 3][-1]).all()
        assert colors[0, 3] < 128 < 200 < colors[-1, 3] < 255  # the image stays visible


def test_a_sink_does_not_hide_the_other_patches() -> None:
    values = sink_map()
    colors = np.unique(map_colors(values).reshape(-1, 4), axis=0)
    assert len(colors) >= values.size / 2
    below, above = clipped(values, linear_scale(values))
    assert above[3, 5]
    assert above.sum() <= 4
    assert not below.any()
    whole = paint(values, Normalize(values.min(), values.max()))
    assert len(np.unique(whole.reshape(-1, 4), axis=0)) == 2  # without clipping: one bright patch


def test_a_few_tiny_values_do_not_make_a_log_scale_bright() -> None:
    values = np.array([*np.geomspace(1e-9, 1e-6, 30), *[0.01] * 150, *np.geomspace(1, 10, 20)])
    scale = map_scale(values)
    assert isinstance(scale, LogNorm)
    assert scale.vmax == 10
    # Two thirds of the scale are the three decades from the median to the maximum, so it has four and a half.
    assert scale.vmin == pytest.approx(10**-3.5)
    assert float(scale(0.01)) == pytest.approx(1 / 3)
    assert float(scale(1e-9)) == 0.0


def test_positive_maps_that_would_look_black_get_a_log_scale() -> None:
    values = (10.0 ** (6 * np.linspace(0, 1, 196) ** 2 - 6)).reshape(14, 14)
    # The median is 10 ** -4.5 of the maximum, a quarter of the scale; three quarters are below 10 ** -2.6 = 0.3% of it.
    scale = map_scale(values)
    assert isinstance(scale, LogNorm)
    assert (map_colors(values) == paint(values, scale)).all()
    assert scale_remark(values) == "log scale"
    assert np.allclose(
        np.asarray(scale(values)).ravel(), np.linspace(0, 1, 196) ** 2
    )  # equal factors, equal steps
    others = np.cbrt(values), values - values.mean(), np.where(values < 1e-5, 0, values), np.full((14, 14), 0.5)
    for other in others:
        assert not isinstance(map_scale(other), LogNorm)
        assert map_scale(other).vmax == linear_scale(other).vmax


def test_a_few_zeros_do_not_prevent_a_log_scale() -> None:
    values = 10.0 ** (6 * np.linspace(0, 1, 196) ** 2 - 6)
    expected = map_scale(values)
    assert isinstance(expected, LogNorm)
    few, many = np.append(values, np.zeros(21)), np.append(values, np.zeros(22))  # 9.7% and 10.1%
    scale = map_scale(few)
    assert isinstance(scale, LogNorm)
    assert (scale.vmin, scale.vmax) == (expected.vmin, expected.vmax)
    below, above = clipped(few, scale)
    assert below.sum() == 21
    assert not above.any()
    assert not isinstance(map_scale(many), LogNorm)


def test_linear_limits_of_rows_are_those_of_each_row() -> None:
    draws = np.random.default_rng(1).lognormal(0, 2, (6, 196))
    rows = np.stack([*draws[:2], draws[2] - draws[3], np.where(draws[4] < 1, 0, draws[4]), np.round(draws[5])])
    for row, low, high in zip(rows, *linear_limits(rows), strict=True):
        scale = linear_scale(row)
        assert (scale.vmin, scale.vmax) == (low, high)
        padded = np.append(row, np.nan)
        assert np.array_equal(np.stack(linear_limits(padded)), [low, high])


@pytest.mark.parametrize("size", [7, 14, 37])
def test_constant_maps_and_rounding_show_no_structure(size: int) -> None:
    for level in (0.0, 0.3, -5.0, 1e-12):
        values = np.full((size, size), level)
        values[::2] *= 1 + 1e-8
        assert isinstance(linear_scale(values), ConstantScale)
        assert (map_colors(values)[..., 3] == 0).all()
    # One different patch among equal ones: the rounding of the others stays invisible.
    values = np.full((size, size), 0.3) * (1 + 1e-8 * np.random.default_rng(0).normal(size=(size, size)))
    values[1, 1] = 0.9
    assert len(np.unique(map_colors(values).reshape(-1, 4), axis=0)) == 2


def test_a_few_positive_values_among_zeros_are_not_clipped() -> None:
    values = np.zeros((14, 14))
    values.flat[:10] = np.geomspace(0.01, 1, 10)
    scale = linear_scale(values)
    assert (scale.vmin, scale.vmax) == (0, 1)
    values.flat[10:110] = np.linspace(0.001, 0.002, 100)  # 110 values, of which 2 may be clipped
    scale = linear_scale(values)
    assert scale.vmin == 0
    assert clipped(values, scale)[1].sum() <= 2


def test_small_grids_and_counts_are_never_clipped() -> None:
    small = np.random.default_rng(0).lognormal(0, 3, (7, 7))
    assert linear_scale(small).vmax == small.max()
    counts = np.full((14, 14), 196.0)
    counts[0, :3], counts[1, :9] = 2.0, 195.0
    scale = linear_scale(counts)
    assert (scale.vmin, scale.vmax) == (2, 196)


def test_signed_maps_are_neutral_at_zero_with_a_robust_symmetric_range() -> None:
    values = signed_map()
    scale = linear_scale(values)
    assert is_symmetric(scale)
    assert scale.vmax == sorted(np.abs(values).ravel())[-2]  # 2% of the 95 values that are not zero: one
    colors = map_colors(values).astype(int)
    zero, negative, positive = colors[2, 3], colors[0, 0], colors[7, 11]
    assert np.ptp(zero[:3]) < 6  # gray
    assert zero[3] == colors[..., 3].min()
    assert positive[0] > positive[2] + 50
    assert negative[2] > negative[0] + 50


def test_rounding_errors_below_zero_do_not_give_diverging_colors() -> None:
    for values in ([0.0, 1.0], [-1e-9, 1.0], [-1.0, 0.0], [-1.0, 1e-9], [0.3, 0.3], [0.0, 0.0]):
        assert not is_symmetric(linear_scale(np.array(values))), values
    assert is_symmetric(linear_scale(np.array([-1e-3, 1.0])))


def test_log_scales_have_robust_limits() -> None:
    assert isinstance(log_scale(np.array([0.0, 1.0, 2.0])), LogNorm)
    for unfit in ([0.0, 0.0], [-1.0, 1.0], [0.0, 1.0]):
        assert not isinstance(log_scale(np.array(unfit)), LogNorm)
    values = 10.0 ** np.random.default_rng(0).uniform(-5, -4, 98)
    scale = log_scale(np.array([*values, 1e3, 1e-30]))
    np.testing.assert_allclose((scale.vmin, scale.vmax), (values.min(), values.max()))
    few = log_scale(np.array([1e-20, 1e-3, 1.0]))
    np.testing.assert_allclose((few.vmin, few.vmax), (1e-8, 1.0))


@pytest.mark.parametrize(
    ("values", "extend", "words"),
    [
        (sink_map, "max", "▲ above the 98th percentile"),
        (lambda: -sink_map(), "min", "▼ below the 2nd percentile"),
        (lambda: np.random.default_rng(0).uniform(size=(14, 14)), "neither", ""),
        (lambda: np.full((14, 14), 0.3), "neither", ""),
    ],
)
@pytest.mark.parametrize("more_is_relevant", [True, False])
def test_the_color_bar_has_arrows_and_patches_have_triangles_exactly_if_clipped(
    values, extend: str, words: str, more_is_relevant: bool
) -> None:
    found = values()
    layout = TokenLayout(prefix=1, rows=14, cols=14, readout="token", extent=(32, 48))
    draw = partial(
        figures.draw_map, prepared=prepared((480, 320)), patch_map=torch.from_numpy(found), layout=layout
    )
    axes, _ = drawn(partial(draw, more_is_relevant=more_is_relevant))
    [bar] = axes.child_axes
    assert bar._colorbar.extend == extend
    assert words in bar.get_ylabel().replace("\n", " ")
    assert ("percentile" in bar.get_ylabel()) == (extend != "neither")
    marked = sum(len(collection.get_paths()) for collection in axes.collections)
    assert marked == sum(cells.sum() for cells in clipped(found, linear_scale(found)))


def test_triangles_lie_in_their_patches_and_point_to_the_values() -> None:
    cells = np.zeros((3, 4), bool)
    cells[2, 1] = True
    [up], [down] = triangles(cells, up=True), triangles(cells, up=False)
    for shape in (up, down):
        np.testing.assert_allclose(shape.mean(0)[0], 1.5)
        assert ((shape > (1, 2)) & (shape < (2, 3))).all()
    assert (up[0, 1] < up[1:, 1]).all()  # y points down
    assert (down[0, 1] > down[1:, 1]).all()
    crowd = np.zeros((10, 10), bool)
    crowd.flat[:10] = True
    assert len(triangles(crowd, up=True)) == 10
    crowd.flat[10] = True
    assert not len(triangles(crowd, up=True))  # more than a tenth would hide the image


@pytest.mark.parametrize("make", [sink_map, signed_map, lambda: np.zeros((5, 9)), lambda: np.eye(8)])
def test_a_map_has_the_same_colors_in_figures_reports_and_grids(make) -> None:
    values = make()
    expected = map_colors(values)
    layout = TokenLayout(prefix=1, rows=len(values), cols=len(values.T), readout="token", extent=(32, 48))
    axes, _ = drawn(
        partial(figures.draw_map, prepared=prepared((480, 320)), patch_map=torch.from_numpy(values), layout=layout)
    )
    assert (axes.images[-1].get_array() == expected).all()
    with Image.open(io.BytesIO(base64.b64decode(map_uri(values).split(",")[1]))) as image:
        assert (np.asarray(image) == expected).all()
    marks = sum(int(cells.sum()) for cells in clipped(values, linear_scale(values)))
    assert clipped_path(values).count("Z") == marks
    compared = Compared(keys="b", methods=["gmar"])
    compared.maps = lambda model, key: {"gmar": values}  # type: ignore[method-assign]
    panel = grid_figure(compared, "vit").axes[1]  # type: ignore[arg-type]
    assert (panel.images[-1].get_array() == expected).all()
    assert sum(len(collection.get_paths()) for collection in panel.collections) == marks


def test_the_explorer_has_the_colors_and_limits_of_figures() -> None:
    u = torch.from_numpy(np.random.default_rng(0).lognormal(-9, 3, (96, 96))).float()
    u[:, 7] = 3.0
    sliders = slider_steps(u, 0.1, 0.2)
    shown = sliders.values[sliders.steps]
    limits = row_limits(sliders)
    for patch in (0, 7, 95):
        others = np.delete(shown[patch], patch)
        scale = log_scale(others)
        np.testing.assert_allclose(limits[patch], (scale.vmin, scale.vmax))
        shades = np.round(255 * np.ma.getdata(scale(others))).astype(int)
        assert np.abs(palette().astype(int)[shades] - paint(others, scale)).max() <= 4


def test_matplotlib_has_the_color_maps_that_are_used() -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    expected = matplotlib.colormaps["inferno"](values, bytes=True)[..., :3]
    assert np.abs(map_colors(values + 2)[..., :3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "message"), [(np.ones(3), r"\(rows, cols\)"), (np.full((2, 2), np.nan), "finite")]
)
def test_colors_require_a_map(values: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_colors(values)
