"""Figures: maps are placed correctly on the original image, with their raw values."""

from functools import partial
from itertools import combinations, pairwise, product

import matplotlib
import numpy as np
import pytest
import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.utils import flow_to_image

import vit_interactions as vi
from tests.helpers.drawn import COLS, LAYOUT, PLACES, ROWS, N, centers, drawn, prepared, probe
from vit_interactions import figures
from vit_interactions.attention import TokenLayout
from vit_interactions.figures.field import FIELD_COLOR, WINDOW_COLOR
from vit_interactions.figures.selection import one_image
from vit_interactions.figures.tendency import ARROW_COLOR
from vit_interactions.figures.values import is_symmetric, linear_scale, log_scale


def uncertainty(seed: int = 0) -> Tensor:
    return torch.rand(N, N, generator=torch.Generator().manual_seed(seed)) ** 8


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


@pytest.mark.parametrize(("size", "left", "top"), PLACES, ids=["portrait", "landscape"])
def test_image_outside_the_model_input_is_pale(size, left, top):
    axes, color = drawn(lambda axes: figures.draw_image(axes, prepared(size), LAYOUT))
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, size[0]), (size[1], 0))
    assert (color(*centers(left, top)[1, 1]) == 128).all()
    for corner in ((size[0] * 0.02, size[1] * 0.02), (size[0] * 0.98, size[1] * 0.98)):
        assert (color(*corner) > 200).all()


def test_padding_patches_are_inside_the_axes():
    steps = transforms.Compose([transforms.CenterCrop((32, 48)), transforms.ToTensor()])
    small = figures.prepare(Image.new("RGB", (48, 16)), torch.nn.Identity(), steps)
    axes, color = drawn(lambda axes: figures.draw_image(axes, small, LAYOUT))
    assert axes.get_ylim() == (24.0, -8.0)
    assert (color(24, 8) == 0).all()
    assert (color(24, -4) == color(24, 20)).all()
    assert (color(24, -4) == round(0.85 * 255)).all()


@pytest.mark.parametrize("noise", [0.0, 1e-9])
@pytest.mark.parametrize("value", [0.0, 0.3, -5.0])
def test_constant_maps_show_no_structure(noise, value):
    values = torch.full((ROWS, COLS), value, dtype=torch.float64)
    values[::2] *= 1 + noise
    axes, color = drawn(lambda axes: figures.draw_map(axes, prepared((480, 320)), values, LAYOUT, label="a"))
    assert len({tuple(color(*center)) for center in centers(0, 0).values()}) == 1
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
    assert bar.get_ylabel() == "U (log scale)"
    np.testing.assert_allclose(bar.get_ylim(), (1e31, 1e35))


def test_scales():
    assert isinstance(log_scale(np.array([0.0, 1.0, 2.0]), 4), LogNorm)
    for unfit in ([0.0, 0.0], [-1.0, 1.0], [0.0, 1.0]):
        assert not isinstance(log_scale(np.array(unfit), 4), LogNorm)
    scale = linear_scale(np.array([3.0, 3.0]))
    assert scale(3.0) == pytest.approx(0.5, abs=0.01)


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


def test_rounding_errors_below_zero_do_not_give_diverging_colors():
    for values in ([0.0, 1.0], [-1e-9, 1.0], [-1.0, 0.0], [-1.0, 1e-9], [0.3, 0.3], [0.0, 0.0]):
        assert not is_symmetric(linear_scale(np.array(values))), values
    assert is_symmetric(linear_scale(np.array([-1e-3, 1.0])))


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


def test_field_sizes_share_one_integer_scale():
    seen = []
    for others in (N, N - 1):
        size = torch.full((ROWS, COLS), others)
        size[0, 0] = N - 1
        figure = partial(figures.draw_field_size, prepared=prepared((480, 320)), size=size, layout=LAYOUT)
        axes, color = drawn(figure)
        [bar] = axes.child_axes
        assert bar.get_ylim() == (N, 1)
        assert all(tick == round(tick) for tick in bar.get_yticks())
        assert bar.get_ylabel() == "patches in the field\n(lower is more relevant,\nas in the paper)"
        seen.append([color(*center) for center in centers(0, 0).values()])
    assert (seen[0][0] == seen[1][0]).all()
    assert np.abs(seen[0][0] - seen[0][1]).max() < 20  # sizes that differ by one have similar colors


def test_long_labels_fit_next_to_the_map():
    label = "convergence of the tendency (> 0: neighbours' fields point here)"
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


def test_a_row_of_u_is_drawn_for_its_patch():
    u = torch.full((N, N), 1e-9)
    u[LAYOUT.cols * 1 + 4, LAYOUT.cols * 3 + 2] = 1e-3
    patch = (1, 4)
    axes, color = drawn(lambda axes: figures.draw_interactions(axes, prepared((480, 320)), u, LAYOUT, patch))
    brightness = {place: color(*center).sum() for place, center in centers(0, 0).items()}
    assert max(brightness, key=brightness.get) == (3, 2)
    marked = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_xy() == (320, 80)]
    assert [(p.get_width(), p.get_height()) for p in marked] == [(80, 80)]


def hand_made_field() -> vi.ResponsiveField:
    """Build a field: patch (1, 1) has a window from (0, 1) to (2, 3); (1, 2) and the last patch are dropped."""
    p = 1 * COLS + 1
    u = torch.zeros(1, N, N)
    u[0, p, 0 * COLS + 2] = u[0, p, 2 * COLS + 3] = 1.0
    field = vi.responsive_field(u, LAYOUT.grid, alpha=2 / N**2, beta=0.0)
    field.dropped[0, 1 * COLS + 2] = True
    field.mask[0, :, 1 * COLS + 2] = False
    field.dropped[0, N - 1] = True  # outside the window
    return field


def test_window_boundary_candidates_and_dropped_patches_are_drawn():
    axes, color = drawn(
        lambda axes: figures.draw_field(axes, prepared((480, 320)), hand_made_field(), LAYOUT, (1, 1))
    )
    to_hex = matplotlib.colors.to_hex
    [window] = [p for p in axes.patches if to_hex(p.get_edgecolor()) == WINDOW_COLOR]
    assert window.get_bbox().extents.tolist() == [64, -16, 336, 256]  # around the field's line
    assert not window.get_clip_on()
    [boundary] = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert to_hex(boundary.get_color()[0]) == FIELD_COLOR
    lengths = [np.abs(np.diff(segment, axis=0)).sum() for segment in boundary.get_segments()]
    assert sum(lengths) == 2 * (240 + 240)  # around the window, but not around the hole
    ends = np.concatenate(boundary.get_segments())
    assert (ends.min(0).tolist(), ends.max(0).tolist()) == ([80, 0], [320, 240])
    yellow, cyan = (np.array(matplotlib.colors.to_rgb(c)) * 255 for c in (FIELD_COLOR, WINDOW_COLOR))
    beside = [color(x, 240) for x in np.linspace(90, 310, 40)]
    assert all(np.abs(pixel - yellow).max() < 60 for pixel in beside)
    assert 10 < sum(np.abs(color(x, 256) - cyan).max() < 60 for x in np.linspace(90, 310, 40)) < 38  # dashed
    rim = [color(160 + 80 * u, y) for u in np.linspace(0.1, 0.9, 9) for y in (80, 160)]
    assert not any(np.abs(pixel - yellow).max() < 60 for pixel in rim)
    [hatched] = [c for c in axes.collections if type(c) is PolyCollection]
    [hole] = hatched.get_paths()
    assert hole.get_extents().extents.tolist() == [160, 80, 240, 160]
    [dots] = [c for c in axes.collections if len(c.get_offsets()) > 1]
    assert sorted(map(tuple, dots.get_offsets().tolist())) == [(200, 40), (280, 200)]
    inside = {(r, c) for r, c in product(range(3), range(1, 4))} - {(1, 2)}
    for patch, (x, y) in centers(0, 0).items():
        light = (color(x + 25, y + 25) == 128).all()  # next to dots and names
        assert light == (patch in inside), patch


def test_field_of_candidates_only_is_outlined_per_patch():
    u = torch.zeros(1, N, N)
    u[0, 0, 2 * COLS + 3] = 1.0
    field = vi.responsive_field(u, LAYOUT.grid, alpha=1 / N**2, beta=0.0, field="candidates")
    axes, _ = drawn(lambda axes: figures.draw_field(axes, prepared((480, 320)), field, LAYOUT, (0, 0)))
    [boundary] = [c for c in axes.collections if isinstance(c, LineCollection)]
    middles = {tuple(np.mean(segment, axis=0)) for segment in boundary.get_segments()}
    around = {
        (x + dx, y + dy) for x, y in ((40, 40), (280, 200)) for dx, dy in ((40, 0), (-40, 0), (0, 40), (0, -40))
    }
    assert middles == around


def test_dropped_patches_are_visible_on_a_black_image():
    dropped = torch.zeros(ROWS, COLS, dtype=torch.bool)
    dropped[1, 1:3] = dropped[0, 5] = True
    _, color = drawn(lambda axes: figures.draw_dropped(axes, prepared((480, 320), gray=0), dropped, LAYOUT))
    for x in (80, 160, 240):  # three light edges for two patches
        assert max(color(x + dx, 120).min() for dx in (-1, 0, 1)) > 60, x
    for x, y in ((400, 40), (480, 40), (440, 0), (440, 80)):  # including the edge of the model input
        near = [color(x + d, y + e) for d, e in product((-2, -1, 0, 1, 2), repeat=2)]
        assert max(pixel.min() for pixel in near) > 60, (x, y)
    for x in (40, 120, 200, 280, 320):
        assert color(x, 120).max() == 0, x


def test_dropped_patches_and_no_others_are_black():
    dropped = torch.rand(ROWS, COLS, generator=torch.Generator().manual_seed(1)) < 0.4
    for size, left, top in PLACES:
        _, color = drawn(lambda axes, size=size: figures.draw_dropped(axes, prepared(size), dropped, LAYOUT))
        for patch, (x, y) in centers(left, top).items():
            for dx, dy in product((-32, 0, 32), (-32, 0, 32)):
                assert (color(x + dx, y + dy) == (0 if dropped[patch] else 128)).all()


def test_pairs_and_column_variances():
    u = uncertainty()
    axes, _ = drawn(lambda axes: figures.draw_pairs(axes, u))
    np.testing.assert_allclose(axes.images[0].get_array(), u.double())
    assert axes.images[0].origin == "upper"
    axes, _ = drawn(lambda axes: figures.draw_column_variances(axes, u, (0.25, 0.5)))
    variances = [u[:, i].double().var(correction=0).item() for i in range(N)]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), sorted(variances))
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [6.5, 12.5]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "β = 0.25: 6 dropped",
        "β = 0.5: 12 dropped",
    ]


@pytest.mark.parametrize("vector", [(1, 0), (-1, 0), (0, 1), (0, -1)], ids=["right", "left", "down", "up"])
def test_arrow_directions_on_the_image(vector):
    one = TokenLayout(prefix=1, rows=1, cols=1, readout="token", extent=(32, 32))
    ready = figures.PreparedImage(
        Image.new("RGB", (100, 100)), torch.zeros(3, 32, 32), figures.Placement(32, 32, 0, 0, 3, 3)
    )
    tendency = torch.tensor(vector, dtype=torch.float32).reshape(1, 1, 2)
    _, color = drawn(lambda axes: figures.draw_tendency_arrows(axes, ready, tendency, one))
    yellow = np.array(matplotlib.colors.to_rgb(ARROW_COLOR)) * 255
    y, x = np.mgrid[2:96:2, 2:96:2]
    mask = np.array(
        [
            [np.abs(color(a, b) - yellow).max() < 40 for a, b in zip(*row, strict=True)]
            for row in zip(x, y, strict=True)
        ]
    )
    # The head is wider than the shaft, so most of the arrow lies on the side that it points to.
    lean = np.array([(x[mask] - 48).mean(), (y[mask] - 48).mean()])
    assert mask.sum() > 20
    assert lean @ vector > 1
    assert abs(lean @ vector[::-1]) < 0.3
    span = (x if vector[0] else y)[mask]
    assert 0.7 * 96 < span.max() - span.min() < 0.85 * 96


def test_patches_without_a_direction_get_a_dot():
    tendency = torch.zeros(ROWS, COLS, 2)
    tendency[0, 0, 0] = 1.0
    axes, _ = drawn(lambda axes: figures.draw_tendency_arrows(axes, prepared((480, 320)), tendency, LAYOUT))
    dots, arrows = (c for c in axes.collections)
    assert len(dots.get_offsets()) == N - 1
    assert arrows.get_offsets().tolist() == [[40, 40]]


def test_flow_colors_match_torchvision_and_the_wheel():
    angles = torch.linspace(0, 6, N).reshape(ROWS, COLS)
    tendency = torch.stack((angles.cos(), angles.sin()), -1)
    tendency[2, 3] = 0.0
    axes, color = drawn(lambda axes: figures.draw_tendency_flow(axes, prepared((480, 320)), tendency, LAYOUT))
    expected = flow_to_image(tendency.permute(2, 0, 1))
    for (row, col), center in centers(0, 0).items():
        assert color(*center).tolist() == expected[:, row, col].tolist()
    [wheel] = axes.child_axes
    wheel_color = probe(wheel)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        alone = flow_to_image(torch.tensor([x, y], dtype=torch.float32).reshape(2, 1, 1)).flatten()
        np.testing.assert_allclose(wheel_color(0.93 * x, 0.93 * y), alone, atol=60)
    words = {text.get_text(): text.get_position() for text in wheel.texts}
    assert words["down"][1] > 1
    assert words["up"][1] < -1
    assert words["right"][0] > 1
    assert words["left"][0] < -1
    assert words["white:\nno tendency"][1] > words["down"][1]
    assert (color(*centers(0, 0)[2, 3]) == 255).all()
    boxes = [text.get_window_extent() for text in wheel.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert wheel.yaxis_inverted()


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


def test_chosen_patches_are_distinct_far_apart_and_deterministic():
    for seed in range(5):
        u = uncertainty(seed)
        patches = figures.choose_patches(u, LAYOUT)
        assert patches == figures.choose_patches(u.clone(), LAYOUT)
        assert len(set(patches)) == 4
        apart = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in patches for b in patches if a != b]
        assert min(apart) >= 6 / 4
        most = int(u.double().var(0).argmax())
        assert patches[0] == divmod(most, COLS)
    assert len(figures.choose_patches(uncertainty(), LAYOUT, count=1)) == 1
    assert len(set(figures.choose_patches(uncertainty(), LAYOUT, count=100))) < N


def whole_figures(size: tuple[int, int], title: str = "") -> dict[str, Figure]:
    u, ready = uncertainty(), prepared(size)
    field = vi.responsive_field(u[None], LAYOUT.grid, alpha=0.05)
    curve = vi.InteractionCurve((0.5, 1.0), torch.tensor([[5, 9], [7, 9]]), 9)
    return {
        "interaction": figures.interaction_figure(ready, u, field, LAYOUT, title=title),
        "field": figures.field_figure(ready, field, LAYOUT, title=title),
        "indiscriminative": figures.indiscriminative_figure(ready, u, LAYOUT, title=title),
        "map": figures.map_figure(ready, u[0].reshape(LAYOUT.grid), LAYOUT, title=title),
        "curve": figures.curve_figure(curve, title=title),
    }


@pytest.mark.parametrize("size", [(480, 800), (1000, 320)], ids=["portrait", "landscape"])
def test_nothing_is_cut_off_and_titles_are_literal(size):
    title = "bill_$100_$\\frac{" + "x" * 300 + "\n\udce9.jpg"
    for name, figure in whole_figures(size, title).items():
        figure.set_dpi(50)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert box.x0 > -0.05, name
        assert box.y0 > -0.05, name
        assert box.x1 < width + 0.05, name
        assert box.y1 < height + 0.05, name
        assert figure.get_suptitle().replace("\n", "").startswith("bill_$100_$\\frac{xxx")
        assert not figure._suptitle.get_parse_math()
    assert matplotlib._pylab_helpers.Gcf.figs == {}


def test_figures_contain_each_part():
    made = whole_figures((480, 320))
    interaction = made["interaction"].axes
    patches = figures.choose_patches(uncertainty(), LAYOUT)
    titles = [axes.get_title() for axes in interaction]
    assert [title for title in titles if title.startswith("Patch")] == [
        f"Patch {i}, row {r}, col {c}" for i, (r, c) in enumerate(patches, 1)
    ]
    sizes = vi.responsive_field(uncertainty()[None], LAYOUT.grid, alpha=0.05).size[0]
    assert [title for title in titles if title.startswith("Field")] == [
        f"Field: {sizes[r * COLS + c]} of {N} patches" for r, c in patches
    ]
    names = [text.get_text() for text in interaction[0].texts if "informative" not in text.get_text()]
    assert names == [" 1 ", " 2 ", " 3 ", " 4 "]
    assert [axes.get_title() for axes in made["indiscriminative"].axes if "dropped" in axes.get_title()] == [
        "β = 0.07: 2 of 24 dropped",
        "β = 0.2: 5 of 24 dropped",
        "β = 0.5: 12 of 24 dropped",
    ]


def test_rows_of_u_share_one_color_scale():
    u = torch.full((N, N), 1e-7)
    u[0, 5], u[N - 1, 5], u[7, 7] = 1e-2, 1e-4, 1e3  # the last one is not in any panel
    field = vi.responsive_field(u[None], LAYOUT.grid)
    figure = figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT, [(0, 0), (3, 5)])
    first, second = (axes for axes in figure.axes if axes.get_title().startswith("Patch"))
    for axes in (first, second):
        np.testing.assert_allclose(axes.child_axes[0].get_ylim(), (1e-6, 1e-2))
    at = centers(0, 0)[0, 5]
    assert probe(first)(*at).sum() > probe(second)(*at).sum() + 100


def test_default_choice_of_patches_is_stated():
    u = uncertainty()
    field = vi.responsive_field(u[None], LAYOUT.grid)
    for patches, said in ((None, 1), ([(0, 0)], 0)):
        figure = figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT, patches)
        captions = [text for text in figure.axes[0].texts if "most informative ones" in text.get_text()]
        assert len(captions) == said
    figure = figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT)
    FigureCanvasAgg(figure).draw()
    [caption] = [text for text in figure.axes[0].texts if "last, the least informative one" in text.get_text()]
    box = caption.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


@pytest.mark.parametrize("chosen", [0.1, 0.2, 0.0])
def test_chosen_beta_is_marked_in_its_panel(chosen):
    ready, u = prepared((480, 320)), uncertainty()
    figure = figures.indiscriminative_figure(ready, u, LAYOUT, chosen=chosen)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title().startswith("β")]
    betas = sorted({0.07, 0.2, 0.5, chosen})
    assert [title.split()[2].rstrip(":") for title in titles] == [f"{beta:g}" for beta in betas]
    [marked] = [title for title in titles if "(chosen)" in title]
    assert marked == f"β = {chosen:g} (chosen): {round(chosen * N)} of {N} dropped"
    with pytest.raises(ValueError, match=r"`betas` .*\[0, 1\], got 7"):
        figures.indiscriminative_figure(ready, u, LAYOUT, chosen=7)


def test_many_patches_get_one_panel_each():
    u = uncertainty()
    field = vi.responsive_field(u[None], LAYOUT.grid, alpha=0.05)
    patches = [(row, 2) for row in range(4)] + [(0, 0)]
    figure = figures.interaction_figure(prepared((480, 800)), u, field, LAYOUT, patches)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title().startswith("Patch")]
    assert titles == [f"Patch {i}, row {r}, col {c}" for i, (r, c) in enumerate(patches, 1)]


def test_tensors_of_any_dtype_with_gradients_are_accepted():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        u = uncertainty().to(dtype).requires_grad_()
        field = vi.responsive_field(u.detach()[None].float(), LAYOUT.grid)
        assert figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT, [(0, 0)]).axes
        assert figures.indiscriminative_figure(prepared((480, 320)), u, LAYOUT, (0.5,)).axes
        assert u.grad is None


def test_one_image_of_a_batch():
    u = torch.stack([uncertainty(0), uncertainty(1)])
    fields = vi.responsive_field(u, LAYOUT.grid)
    second = one_image(fields, LAYOUT, 1)
    assert torch.equal(second.mask[0], vi.responsive_field(u[1:], LAYOUT.grid).mask[0])
    with pytest.raises(ValueError, match="`index` must select one of the 2 images of `field`, got None"):
        figures.field_figure(prepared((480, 320)), fields, LAYOUT)
    with pytest.raises(ValueError, match=r"`index` must lie in \[0, 1\], the images of `field`, got 2"):
        figures.field_figure(prepared((480, 320)), fields, LAYOUT, index=2)


def test_errors_name_argument_expected_and_got():
    ready, u = prepared((480, 320)), uncertainty()
    field = vi.responsive_field(u[None], LAYOUT.grid)
    with pytest.raises(ValueError, match=r"`patch_map` must have shape \(4, 6\), got \(1, 4, 6\)"):
        figures.map_figure(ready, torch.zeros(1, ROWS, COLS), LAYOUT)
    with pytest.raises(ValueError, match="`patch_map` must be finite, got 1 NaN or infinite values"):
        figures.map_figure(
            ready, torch.zeros(ROWS, COLS).index_put((torch.tensor(0),) * 2, torch.tensor(torch.nan)), LAYOUT
        )
    with pytest.raises(ValueError, match=r"`uncertainty` must have shape \(24, 24\), got \(1, 24, 24\)"):
        figures.interaction_figure(ready, u[None], field, LAYOUT, [(0, 0)])
    with pytest.raises(ValueError, match=r"row in \[0, 3\], col in \[0, 5\], got \(4, 0\)"):
        figures.interaction_figure(ready, u, field, LAYOUT, [(4, 0)])
    with pytest.raises(ValueError, match="`patches` must contain at least one"):
        figures.interaction_figure(ready, u, field, LAYOUT, [])
    with pytest.raises(ValueError, match=r"`field` must have the grid \(4, 6\) of `layout`, got \(6, 4\)"):
        figures.field_figure(ready, vi.responsive_field(u[None], (6, 4)), LAYOUT)
    with pytest.raises(ValueError, match=r"`betas` .*\[0, 1\], got 7"):
        figures.indiscriminative_figure(ready, u, LAYOUT, (7,))


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")  # attention Grad-CAM may be zero everywhere
def test_figures_from_model_and_image():
    model = timm.create_model("test_vit").eval()
    ready = figures.prepare(Image.effect_noise((300, 200), 80), model)
    inputs = ready.input.unsqueeze(0)
    layout = vi.token_layout(model, (160, 160))
    u = vi.InteractionUncertainty(model).uncertainty(inputs)
    field = vi.responsive_field(u, layout.grid)
    assert len(figures.interaction_figure(ready, u[0], field, layout).axes) > 4
    assert len(figures.field_figure(ready, field, layout).axes) >= 4
    for method in vi.EXPLAINERS.values():
        patch_map = method(model).patch_map(inputs, "pred" if method.class_specific else None)[0]
        shown = figures.map_figure(ready, patch_map, layout, more_is_relevant=method.more_is_relevant)
        assert len(shown.axes) >= 2
