"""The page of the patch explorer: its bytes, and its behavior in a browser."""

import base64
import html
import json
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.data import chelsea
from torch import nn

import vit_interactions as vi
from tests.helpers.browser import Page, page
from tests.helpers.explored import COLS, ROWS
from vit_interactions.explorer import quantize
from vit_interactions.explorer.data import PageData, page_data
from vit_interactions.explorer.quantize import QuantizedAttention
from vit_interactions.explorer.render import render
from vit_interactions.explorer.thresholds import (
    alpha_steps,
    first_relevant_step,
)
from vit_interactions.figures import prepare
from vit_interactions.figures.display import linear_scale, log_scale, paint
from vit_interactions.loading.predictions import Prediction

HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>&\"'"


def blocks(text: str) -> dict[str, bytes]:
    """Unpack the page's data as a browser does."""
    packed = re.findall(r'<script type="text/plain" id="(\w+)">([^<]*)</script>', text)
    return {name: zlib.decompress(base64.b64decode(data)) for name, data in packed}


def test_page_contains_the_same_bytes(file: Path, found: PageData) -> None:
    text = file.read_text()
    data = blocks(text)
    steps = np.frombuffer(data["pairs"], np.uint8).reshape(ROWS * COLS, -1)
    assert np.array_equal(steps, first_relevant_step(found.uncertainty, alpha_steps(0.013, (ROWS * COLS) ** 2)))
    assert np.array_equal(np.frombuffer(data["attention"], np.uint8), found.attention.values.ravel())
    assert "Bokeh" in data["bokeh"].decode()
    assert f"This page: {len(text.encode()) / 1e6:.1f} MB" in text
    assert "default-src 'none'" in html.unescape(text)
    assert "unsafe-eval" not in text
    assert not re.search(r'(src|href|action)="(?!data:)', text)


def test_pages_at_224_pixels_are_small(trained_vit: nn.Module) -> None:
    found = page_data(trained_vit, prepare(Image.fromarray(chelsea()), trained_vit), named=False)
    assert (found.attention.form, found.attention.levels) == ("heads", 256)
    assert len(render(found, title="t", model="m", alpha=0.1, beta=0.2).encode()) < 3e6
    # Simulate 12 heads per layer by repeating the three heads, too far apart for deflate to exploit.
    repeated = {name: np.tile(getattr(found.attention, name), (1, 4, 1)) for name in ("ends", "peaks", "inside")}
    values = np.tile(np.round(found.attention.values / 17).astype(np.uint8), (1, 4, 1, 1))
    assert quantize.FINE_VALUES < values.size <= quantize.EACH_HEAD
    large = replace(found, attention=QuantizedAttention("heads", 16, 12, values, **repeated))
    assert 2e6 < len(render(large, title="t", model="m", alpha=0.1, beta=0.2).encode()) < 3.4e6


@pytest.fixture(scope="module")
def opened(file: Path) -> Iterator[Page]:
    with page(file, width=1300, height=900) as shown:
        wait(shown)
        yield shown


def wait(shown: Page) -> None:
    """Wait until the page is drawn."""
    for _ in range(600):
        if shown.run("document.documentElement.dataset.ready"):
            return
        assert not shown.run("document.getElementById('failed').textContent")
        time.sleep(0.1)
    raise TimeoutError("the page was not drawn within a minute")


def now(shown: Page) -> dict[str, Any]:
    """Return the state of the page after the next frame is drawn."""
    return dict(
        shown.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(explorer.now()))))")
    )


def place_of(shown: Page, found: PageData, plot: str, patch: tuple[int, int]) -> tuple[float, float]:
    """Compute the window coordinates of the center of a patch in Python."""
    script = f"""(() => {{
        const plot = document.getElementById({json.dumps(plot)});
        plot.scrollIntoView({{block: "center", behavior: "instant"}});
        const box = plot.getBoundingClientRect();
        return [box.left, box.top, box.width, box.height];
    }})()"""
    x, y, width, height = shown.run(script)
    prepared, layout = found.prepared, found.layout
    left, top, right, bottom = prepared.patch_box(*patch, layout)
    x0, y0, x1, y1 = prepared.box_of_extent(layout.extent)
    x0, y0 = min(x0, 0.0), min(y0, 0.0)
    x1, y1 = max(x1, prepared.image.width), max(y1, prepared.image.height)
    return (
        x + width * ((left + right) / 2 - x0) / (x1 - x0),
        y + height * ((top + bottom) / 2 - y0) / (y1 - y0),
    )


def same_colors(pixels: NDArray[np.float64], painted: NDArray[np.uint8]) -> bool:
    """Return whether the page's pixels are at most one of 256 shades from the colors of figures."""
    channels = pixels.astype(np.uint32).view(np.uint8).reshape(-1, 4).astype(int)
    return bool(np.abs(channels - painted.astype(int)).max() <= 6)


def check_against_python(shown: Page, found: PageData, coverage: float = 1.0) -> None:
    """Compare everything the browser computed with the library, for all patches and for the selected one."""
    state, everything = now(shown), shown.run("explorer.all()")
    grid = found.layout.grid
    fields = vi.responsive_field(found.uncertainty[None], grid, state["alpha"], state["beta"], coverage=coverage)
    assert everything["windows"] == fields.windows.flatten().tolist()
    assert everything["dropped"] == fields.dropped.flatten().int().tolist()
    assert everything["sizes"] == fields.size.flatten().tolist()
    assert np.allclose(everything["tendency"], fields.tendency.flatten(), atol=1e-6)
    p = state["patch"][0] * grid[1] + state["patch"][1]
    assert state["window"] == fields.windows[0, p].tolist()
    assert state["field"] == fields.mask[0, p].int().tolist()
    assert np.allclose(state["tendency"], fields.tendency[0, p], atol=1e-6)
    row = found.uncertainty[p].double()
    others = np.delete(np.array(state["u"]), p)
    assert same_colors(np.delete(state["colors"], p), paint(others, log_scale(others)))
    assert np.allclose(state["u"], row, atol=0.02 * float(found.uncertainty.max()))
    kept = found.attention
    index = state["layer"], state["head"], p
    exact = (kept.values[index] / 255.0 * kept.ends[index] / 255) ** 2 * kept.peaks[index] / 65535
    assert np.allclose(state["attention"], exact, rtol=1e-9)
    shown = found.features
    assert shown is not None
    place = shown.layers.index(state["featureLayer"])
    below = np.tril_indices(found.layout.patches, -1)
    matrix = np.eye(found.layout.patches)
    matrix[below] = shown.similarity[place] / 40 - 1
    matrix.T[below] = matrix[below]
    assert np.allclose(state["similarity"], matrix[p], atol=1e-12)
    similar = np.delete(matrix[p], p)
    assert same_colors(np.delete(state["similarityColors"], p), paint(similar, linear_scale(similar)))
    assert state["tints"] == shown.colors[place].flatten().tolist()


def test_pointing_and_clicking_select_the_patch_under_the_pointer(opened: Page, found: PageData) -> None:
    for plot in ("plot-interactions", "plot-field", "plot-tendency", "plot-head", "plot-similarity", "plot-pca"):
        opened.hover(place_of(opened, found, plot, (5, 0)))
        assert now(opened)["patch"] == [5, 0]
        opened.hover(place_of(opened, found, plot, (1, 9)))
        assert now(opened)["patch"] == [1, 9]
    place = place_of(opened, found, "plot-field", (4, 7))
    opened.click(place)
    assert now(opened)["held"]
    assert opened.run("document.getElementById('where').textContent") == "Patch in row 4, column 7"
    opened.hover(place_of(opened, found, "plot-field", (0, 0)))
    assert now(opened)["patch"] == [4, 7]
    check_against_python(opened, found)
    opened.click(place_of(opened, found, "plot-field", (4, 7)))
    assert not now(opened)["held"]
    opened.hover(place_of(opened, found, "plot-field", (0, 0)))
    assert now(opened)["patch"] == [0, 0]


def test_arrow_keys_move_the_patch_and_stop_at_the_edge(opened: Page, found: PageData) -> None:
    opened.click(place_of(opened, found, "plot-tendency", (0, 8)))
    for key in ("ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowDown"):
        opened.key(key)
    assert now(opened)["patch"] == [2, 8]
    assert opened.run("document.activeElement.id") == "plot-tendency"
    opened.key("Escape")
    assert not now(opened)["held"]
    check_against_python(opened, found)


def test_sliders_recompute_windows_and_fields_exactly(opened: Page, found: PageData) -> None:
    assert (now(opened)["alpha"], now(opened)["beta"]) == (0.013, 0.2)
    opened.run("document.getElementById('alpha').focus()")
    for keys in (["ArrowRight"], ["PageUp"] * 4, ["PageDown"] * 9, ["Home"], ["ArrowRight"] * 3, ["End"]):
        for key in keys:
            opened.key(key)
        check_against_python(opened, found)
    assert now(opened)["alpha"] == 1.0
    assert opened.run("!document.getElementById('open').hidden")  # the note about windows that cover everything
    opened.key("PageDown")
    opened.run("document.getElementById('beta').focus()")
    for key in ("ArrowRight", "End", "Home", "PageUp"):
        opened.key(key)
        check_against_python(opened, found)
    said = opened.run("document.getElementById('all-read').textContent")
    state = now(opened)
    fields = vi.responsive_field(found.uncertainty[None], found.layout.grid, state["alpha"], state["beta"])
    share = 100 * int(fields.operations) / found.layout.patches**2
    assert f"all fields {share:.0f}%" in said


def test_windows_with_a_coverage_are_exactly_those_of_the_library(found: PageData, tmp_path: Path) -> None:
    text = render(found, title="noise", model="test_vit", alpha=0.05, beta=0.2, coverage=0.8)
    with page(vi.ExplorerPage(text).save(tmp_path / "page.html")) as shown:
        wait(shown)
        assert "at least 80% of the patches relevant to it" in shown.run("document.body.textContent")
        shown.run("document.getElementById('alpha').focus()")
        for keys in ([], ["PageUp"] * 2, ["PageUp"], ["Home"], ["ArrowRight"] * 9, ["End"]):
            for key in keys:
                shown.key(key)
            check_against_python(shown, found, coverage=0.8)
        assert shown.errors == []


def test_clicking_a_tile_selects_layer_and_head(opened: Page, found: PageData) -> None:
    layers, heads = found.attention.values.shape[:2]
    opened.run("document.getElementById('plot-mosaic').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = opened.run("document.getElementById('plot-mosaic').getBoundingClientRect().toJSON()")
    for layer, head in ((layers - 1, 0), (1, heads - 1)):
        opened.click(
            (box["x"] + box["width"] * (layer + 0.5) / layers, box["y"] + box["height"] * (head + 0.5) / heads)
        )
        assert (now(opened)["layer"], now(opened)["head"]) == (layer, head)
        assert opened.run("document.getElementById('head-title').textContent") == f"Layer {layer}, head {head}"
        check_against_python(opened, found)
    opened.key("ArrowLeft")
    opened.key("ArrowUp")
    assert (now(opened)["layer"], now(opened)["head"]) == (0, max(heads - 2, 0))


def test_slider_selects_the_layer_of_the_features(opened: Page, found: PageData) -> None:
    assert found.features is not None
    last = found.features.layers[-1]
    assert now(opened)["featureLayer"] == last
    opened.run("document.getElementById('feature-layer').focus()")
    for layer in (last - 1, last - 2):
        opened.key("ArrowLeft")
        assert now(opened)["featureLayer"] == layer
        assert (
            opened.run("document.getElementById('similarity-title').textContent") == f"Similarity, layer {layer}"
        )
        check_against_python(opened, found)
    red, green, blue = (round(100 * share) for share in found.features.explained[last - 2].round(4))
    said = opened.run("document.getElementById('pca-read').textContent")
    assert said == f"Variance explained: red {red}%, green {green}%, blue {blue}%."
    opened.key("End")
    assert now(opened)["featureLayer"] == last


def test_page_makes_no_requests_and_respects_its_policy(opened: Page, file: Path) -> None:
    assert opened.requests == [file.resolve().as_uri()]
    assert opened.errors == []


def test_phone_in_dark_mode_needs_no_horizontal_scrolling(file: Path, found: PageData) -> None:
    with page(file, width=390, height=844, dark=True) as phone:
        wait(phone)
        assert phone.run("document.documentElement.scrollWidth") <= 390
        background = phone.run("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background)[:3])) < 60
        x, y = place_of(phone, found, "plot-field", (3, 2))
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            phone.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        assert now(phone)["patch"] == [3, 2]
        check_against_python(phone, found)
        assert phone.errors == []


def test_hostile_names_are_escaped(found: PageData, tmp_path: Path) -> None:
    prediction = Prediction(0, HOSTILE, 0.5)
    hostile = replace(found, prediction=prediction)
    text = render(hostile, title=HOSTILE, model=HOSTILE, alpha=0.1, beta=0.2)
    assert HOSTILE not in text
    file = vi.ExplorerPage(text).save(tmp_path / "page.html")
    with page(file) as shown:
        wait(shown)
        assert shown.run("window.hit === undefined")
        assert shown.run("document.querySelector('h1').textContent") == HOSTILE
        assert shown.run("document.images.length") == 1
        assert shown.errors == []
