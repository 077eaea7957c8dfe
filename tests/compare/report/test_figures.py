"""Tests of the figures of a comparison: positions of maps, order of means, curves and correlations."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tests.helpers.compared import COLS, MEANS, METHODS, NAMES, ROWS, Compared
from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.report.figures import (
    agreement_figure,
    alike_together,
    curves_figure,
    draw_agreement,
    draw_curves,
    grid_figure,
    ranking_figure,
    ranking_of,
)
from vit_interactions.figures.display import POLICY
from vit_interactions.metrics import METRICS


def rendered(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def names_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize(("key", "left", "top", "size"), [("a", 0, 240, (480, 800)), ("b", 260, 0, (1000, 320))])
def test_every_map_of_the_grid_lies_at_its_place_on_the_image(
    key: str, left: int, top: int, size: tuple[int, int]
) -> None:
    compared = Compared()
    figure = grid_figure(compared, "vit", [key], ["gmar"])
    pixels = rendered(figure)
    axes = figure.axes[1]

    def color(x: float, y: float) -> np.ndarray:
        across, up = axes.transData.transform((x, y))
        return pixels[len(pixels) - 1 - int(up), int(across)]

    # The map rises by one from patch to patch, in patches of 80 x 80 pixels of the image: from dark to bright.
    seen = np.array(
        [color(left + 80 * col + 40, top + 80 * row + 40).sum() for row, col in product(range(ROWS), range(COLS))]
    )
    assert np.corrcoef(seen, np.arange(ROWS * COLS))[0, 1] > 0.9
    outside = color(size[0] / 2, 60) if top else color(60, size[1] / 2)
    assert np.ptp(outside) == 0  # grey
    assert np.ptp(color(left + 200, top + 160)) > 30


def test_the_grid_has_predictions_and_the_color_scale() -> None:
    compared = Compared()
    compared.missing = {"b": ("gmar",)}
    figure = grid_figure(compared, "vit")
    rendered(figure)  # hostile names are drawn, not obeyed
    titles = [axes.get_title() for axes in figure.axes]
    assert figure.get_suptitle().replace("\n", " ") == f"vit. {POLICY}"
    assert sum("87%" in title for title in titles) == 3
    assert sum("target: class 7, 4%" in title.replace("\n", " ") for title in titles) == 1
    assert titles.count("gmar") == 2
    assert titles.count("gmar\n(no map)") == 1
    assert not any(axes.images for axes in figure.axes[15:])


def test_the_grid_wraps_many_methods() -> None:
    names = [f"method_{number}" for number in range(20)]
    compared = Compared(keys="b", methods=names)
    compared.maps = lambda model, key: dict.fromkeys(names, np.ones((ROWS, COLS)))  # type: ignore[method-assign]
    figure = grid_figure(compared, "vit")
    assert [axes.get_title() for axes in figure.axes[1:]] == [
        *names,
        *[""] * 3,
    ]  # 3 x 8 panels


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"keys": ["z"]}, "`keys` must be among a, b, c, got 'z'"),
        ({"methods": ["z"]}, "`methods` must be among gmar"),
    ],
)
def test_the_grid_requires_compared_names(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_figure(Compared(), "vit", **chosen)


def test_the_grid_requires_maps() -> None:
    compared = Compared()
    compared.missing = dict.fromkeys(NAMES, tuple(METHODS))
    with pytest.raises(ValueError, match="that have maps of model 'vit', got none"):
        grid_figure(compared, "vit")


def test_the_grid_holds_as_many_images_as_matplotlib_draws() -> None:
    compared = Compared(methods=METHODS[:1])
    maps = dict.fromkeys(METHODS[:1], np.ones((ROWS, COLS)))
    compared.maps = lambda model, key: maps  # type: ignore[method-assign]
    keys = [f"{number}" for number in range(208)]
    compared.images = [replace(compared.images[0], key=key) for key in keys]
    with pytest.raises(ValueError, match=r"at most 207 images with 1 methods, got 208"):
        grid_figure(compared, "vit")
    # By hand: a band of 2.1 inches an image and 0.6 above at 150 dots an inch, of at most 65,535.
    assert (207 * 2.1 + 0.6) * 150 <= 65535 < (208 * 2.1 + 0.6) * 150


def test_titles_of_rankings_lie_in_the_figure() -> None:
    long = "dynamic_accumulated_attention"
    for metric in [*METRICS, *COSTS, "a_metric_of_the_lab_with_a_name_of_many_words", "unbroken" * 6]:
        for direction in ("higher", "none"):
            rows = [("vit", name, metric, 0.5, 0.4, 0.6, 3, direction) for name in (long, "random_map")]
            [axes] = ranking_of(pd.DataFrame(rows, columns=list(Compared().summary())), "vit", metric).axes
            rendered(axes.figure)
            [title] = [text for text in axes.findobj(Text) if "better" in text.get_text()]
            box, whole = title.get_window_extent(), axes.figure.bbox
            assert whole.x0 < box.x0 < box.x1 < whole.x1, metric
            assert whole.y0 < box.y0 < box.y1 < whole.y1, metric
            assert title.get_text().split("\n")[-1] in ("higher is better", "neither end is better")


@pytest.mark.parametrize("metric", MEANS)
def test_the_best_is_on_top(metric: str) -> None:
    direction, means = MEANS[metric]
    [axes] = ranking_figure(Compared(), "vit", metric).axes
    rendered(axes.figure)
    worst_first = sorted(means, key=lambda name: means[name] if direction != "lower" else -means[name])
    assert [name.removesuffix(" (baseline)").replace(" ", "_") for name in names_of(axes)] == worst_first
    dots = [line for line in axes.lines if line.get_marker() in "oD"]
    assert [dot.get_xdata()[0] for dot in dots] == [means[name] for name in worst_first]
    assert [dot.get_ydata()[0] for dot in dots] == [0, 1, 2, 3][: len(means)]  # upwards
    spans = [list(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2.4]
    assert spans == [[means[name] - 0.1, means[name] + 0.1] for name in worst_first]
    [baseline] = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "--"]
    assert list(baseline) == [means["random_map"]] * 2
    assert {"higher": "higher is better", "lower": "lower is better", "none": "neither"}[
        direction
    ] in axes.get_title("left")


def test_a_ranking_without_values_raises() -> None:
    with pytest.raises(ValueError, match="got 'road', which has none"):
        ranking_figure(Compared(), "vit", "road")


def test_curves_are_drawn_as_they_are_and_named_from_the_highest_down() -> None:
    axes = Figure().add_subplot()
    at = np.array([0.0, 0.5, 1.0])  # areas by hand: 0.5, 0.75, 0.25
    curves = {"gmar": at, "random_map": np.array([0, 1, 1]), "attn_lrp": np.array([0, 0, 1])}
    draw_curves(axes, {name: np.stack([at, curve], 1) for name, curve in curves.items()}, "deletion", "lower")
    for line, curve in zip(axes.lines, curves.values(), strict=True):
        assert (line.get_ydata() == curve).all()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["random_map (baseline)", "gmar", "attn_lrp"]
    colors = {line.get_label(): line.get_color() for line in axes.lines}
    handles = [handle.get_color() for handle in legend.legend_handles]
    assert handles == [axes.lines[i].get_color() for i in (1, 0, 2)]
    assert len(set(colors.values())) == 3
    assert "lower is better" in axes.get_title("left")


def test_many_curves_have_different_styles() -> None:
    axes = Figure().add_subplot()
    draw_curves(axes, {f"m{i}": np.array([[0, 0], [1, i]]) for i in range(28)}, "insertion", "higher")
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 28


def test_a_metric_without_curves_raises() -> None:
    assert len(curves_figure(Compared(), "vit", "insertion").axes[0].lines) == 4
    with pytest.raises(ValueError, match="got 'deletion', which has none"):
        curves_figure(Compared(), "vit", "deletion")


def test_agreement_is_in_the_cells_of_its_methods() -> None:
    compared = Compared()
    correlations = compared.agreement("vit")
    axes = Figure().add_subplot()
    draw_agreement(axes, correlations)
    names = [name.replace(" ", "_") for name in names_of(axes)]
    assert sorted(names) == sorted(METHODS)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    for (row, first), (col, second) in product(enumerate(names), enumerate(names)):
        value = correlations.loc[first, second]
        assert (col, row) not in written if np.isnan(value) else float(written[col, row]) == value
    assert abs(names.index("gmar") - names.index("responsive_field_size")) == 1  # 0.9
    assert agreement_figure(compared, "vit").axes[0].images


def test_negative_agreement_keeps_its_sign() -> None:
    axes = Figure().add_subplot()
    values = Compared(methods=METHODS[:2]).agreement("vit")
    values.iloc[0, 1] = values.iloc[1, 0] = -0.256
    draw_agreement(axes, values)
    assert sorted(float(text.get_text().replace("−", "-")) for text in axes.texts) == [-0.26, -0.26, 1, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_alike_together_is_a_permutation_that_finds_a_hidden_line(count: int) -> None:
    at = np.random.default_rng(1).permutation(count)
    order = alike_together(1 - np.abs(at[:, None] - at) / 9)
    assert sorted(order) == list(range(count))
    if count > 2:
        assert set(np.abs(np.diff(at[order]))) == {1}


def test_figures_leave_the_image_as_it_was() -> None:
    compared = Compared()
    image = compared.image("a")
    before = image.copy()
    compared.image = lambda key: image  # type: ignore[method-assign]
    grid_figure(compared, "vit", ["a"])
    assert Image.Image.tobytes(image) == before.tobytes()
