"""Tests of the report: its numbers, untrusted text, and its controls by mouse and keyboard."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image

from tests.helpers.browser import Page, page
from tests.helpers.compared import IMAGE, METHODS, NAMES, PLACES, SCRIPT, SIZES, Compared
from tests.helpers.pages import Outline
from vit_interactions.compare import compare
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.manifest import ListedImage
from vit_interactions.compare.report import page as report_module
from vit_interactions.compare.report.figures import grid_figure
from vit_interactions.compare.report.page import render, report
from vit_interactions.explorer.page_files import image_id
from vit_interactions.figures.display import map_colors


@pytest.fixture(scope="module")
def text() -> str:
    return render(Compared())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def path(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def column(p: Page, number: int, table: str = "#results table.values") -> list[str]:
    """Return the texts of a column of the first such table, without the intervals."""
    cells = f"document.querySelector('{table}').tBodies[0].rows"
    return list(p.run(f"[...{cells}].map(row => row.cells[{number}].firstChild.textContent.trim())"))


def test_nothing_from_outside_becomes_a_tag_an_attribute_or_an_address(text: str) -> None:
    outline = Outline(text)
    assert outline.open == []
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert {tag for tag, _ in outline.tags}.isdisjoint(
        {"svg", "b", "iframe", "object", "embed", "base", "form", "link"}
    )
    for tag, attributes in outline.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "srcset", "href"):
            assert re.match(r"data:(image|text)/[\w+-]+[;,]|#\w+$", attributes.get(name) or "#x"), (
                tag,
                attributes,
            )
    assert not re.findall(r"https?://(?!arxiv|openreview|github)", text.replace("&#39;", "'"))
    assert "49" not in re.findall(r"<h3[^>]*>(.*)</h3>", text)[2]  # no template of theirs is obeyed


def test_the_policy_lets_one_script_run_and_fetches_nothing(text: str, path: Path) -> None:
    [(policy,)] = [
        (attributes["content"],)
        for tag, attributes in Outline(text).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
    with page(path) as p:
        assert p.errors == []
        p.run(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.late = 1'}))"
        )
        p.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.late = 2\">')")
        p.run("void fetch('https://example.org').catch(() => 0)")
        assert "Content Security Policy" in " ".join(p.errors)
        assert p.run("window.late") is None


def test_no_script_of_names_runs_and_names_are_read_as_they_are(path: Path) -> None:
    with page(path) as p:
        p.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert p.run("window.pwned") is None
        assert p.errors == []
        assert len(p.requests) == 1
        names = p.run("[...document.querySelectorAll('.shown h3')].map(each => each.textContent)")
        assert names[0] == NAMES["a"]
        assert names[1].startswith("\"'` onload=alert(1) {{ 7 * 7 }} $x_1^2$ �gpj.��very_long")
        assert names[2] == NAMES["c"]
        body = p.run("document.body.textContent")
        assert body.count(SCRIPT) > 8
        assert IMAGE in body


def test_tables_sort_by_clicks(path: Path) -> None:
    with page(path) as p:
        head = "#results table.values thead th:nth-child({})"
        before = column(p, 0)
        assert before == METHODS
        p.click(head.format(2) + " button")  # insertion: the highest first
        assert column(p, 1) == ["0.700", "0.500", "0.400", "0.100"]
        p.click(head.format(2) + " button")
        assert column(p, 1) == ["0.100", "0.400", "0.500", "0.700"]
        p.click(head.format(3) + " button")  # deletion: the lowest first, the missing last
        assert [each.split()[0] for each in column(p, 2)] == ["0.400", "0.500", "0.700", "–"]
        p.click(head.format(3) + " button")
        assert [each.split()[0] for each in column(p, 2)] == ["0.700", "0.500", "0.400", "–"]
        sorts = p.run("[...document.querySelectorAll('#results table.values thead')][0].rows[0].cells.length")
        assert sorts == 4
        states = p.run(
            "[...document.querySelector('#results table.values thead tr').cells]"
            ".map(head => head.getAttribute('aria-sort'))"
        )
        assert states == ["none", "none", "descending", "none"]
        p.click(head.format(1) + " button")
        assert column(p, 0) == sorted(before)
        assert p.errors == []


def test_tables_sort_by_keys(path: Path) -> None:
    with page(path) as p:
        for _ in range(60):  # by Tab to the head of sparsity, whose numbers differ by eight orders of magnitude
            p.key("Tab")
            if str(p.run("document.activeElement.textContent")).strip() == "sparsity":
                break
        p.key("Enter")
        assert [each.split()[0] for each in column(p, 3)] == ["−1.50", "1.00e−05", "2,000", "–"]
        p.key(" ")
        assert [each.split()[0] for each in column(p, 3)] == ["2,000", "1.00e−05", "−1.50", "–"]


def test_sliders_move_by_keys(path: Path) -> None:
    with page(path) as p:
        opacity = "getComputedStyle(document.querySelector('.map')).opacity"
        width = "document.querySelector('.tiles li').getBoundingClientRect().width"
        assert float(p.run(opacity)) == 1
        p.run("document.querySelector('input[data-sets=\"--strength\"]').focus()")
        p.key("Home")
        assert float(p.run(opacity)) == 0
        narrow = p.run(width)
        p.run("document.querySelector('input[data-sets=\"--tile\"]').focus()")
        p.key("End")
        assert p.run(width) > 1.5 * narrow


def test_maps_are_smooth_on_demand(path: Path) -> None:
    with page(path) as p:
        rendering = "getComputedStyle(document.querySelector('.map')).imageRendering"
        assert p.run(rendering) == "pixelated"
        p.run("document.getElementById('smooth').focus()")
        p.key(" ")
        assert p.run(rendering) == "auto"


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_maps_lie_on_their_patches(path: Path, key: str) -> None:
    place = PLACES[key]
    left, top, right, bottom = place.box(0, 0, place.width, place.height)
    number = list(NAMES).index(key)
    with page(path) as p:
        boxes = p.run(
            f"""(() => {{
                const canvas = document.querySelectorAll('.shown')[{number}].querySelectorAll('.canvas')[1];
                return ['.original', '.map'].map(name => {{
                    const box = canvas.querySelector(name).getBoundingClientRect();
                    return [box.left, box.top, box.right, box.bottom];
                }});
            }})()"""
        )
    image, patches = np.array(boxes)
    scale = (image[2] - image[0]) / SIZES[key][0]  # CSS pixels of a image's
    assert np.allclose((image[3] - image[1]) / scale, SIZES[key][1], rtol=0.01)
    found = (patches - np.tile(image[:2], 2)) / scale
    assert np.allclose(found, [left, top, right, bottom], atol=0.6 / scale)


def test_maps_are_their_colours(text: str) -> None:
    [uri, *_] = [attributes["src"] for tag, attributes in Outline(text).tags if attributes.get("class") == "map"]
    assert uri
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        assert (np.asarray(image) == map_colors(Compared().maps("vit", "a")["gmar"])).all()


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(path: Path, dark: bool) -> None:
    with page(path, width=390, height=844, dark=dark) as p:
        p.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert p.run("document.documentElement.scrollWidth") == 390
        assert p.run("(nav => nav.scrollWidth - nav.clientWidth)(document.querySelector('nav ul'))") == 0
        ground, ink = p.run(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        light = [sum(map(int, re.findall(r"\d+", color))) for color in (ground, ink)]
        assert (light[0] < 150 < 500 < light[1]) if dark else (light[1] < 150 < 500 < light[0])
        picture = p.run("document.querySelector('.drawing img').currentSrc")
        assert ("dddad4" in base64.b64decode(picture.split(",")[1]).decode()) is dark
        broken = p.run("[...document.images].filter(each => !each.complete || !each.naturalWidth).length")
        assert broken == 0


def test_everything_that_can_be_pressed_or_seen_has_a_name(path: Path) -> None:
    with page(path) as p:
        nameless = p.run(
            """[...document.querySelectorAll('button, a, input, [role], img:not(.map)')].filter(each =>
                !(each.getAttribute('aria-label') || each.textContent.trim() || each.alt || each.labels?.length)
            ).length"""
        )
        assert nameless == 0
        assert p.run("document.documentElement.lang") == "en"
        assert p.run("document.querySelectorAll('h1').length") == 1
        targets = p.run(
            "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash))"
        )
        assert targets == []


def test_the_page_has_settings_versions_failures_and_citations(text: str) -> None:
    said = re.sub(r"\s+", " ", re.sub(r"<(?:[^>\"]|\"[^\"]*\")*>", " ", text))
    assert "alpha 0.1" in said
    assert "torch 2" in said
    assert "undefined &lt;script&gt;" in said
    assert "@inproceedings{jo2025gmar," in said
    assert "@inproceedings{abnar2020quantifying," in said
    assert "bousselham" not in said  # not used
    [saved] = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]*)"', text)
    pd.testing.assert_frame_equal(
        pd.read_csv(io.BytesIO(base64.b64decode(saved))), Compared().summary(), check_dtype=False
    )


def test_two_models_are_side_by_side() -> None:
    text = render(Compared(("vit", SCRIPT), "a"))  # type: ignore[arg-type]
    outline = Outline(text)
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert len([1 for _, attributes in outline.tags if attributes.get("class") == "sortable values"]) == 3 + 2 + 2
    assert len([1 for _, attributes in outline.tags if attributes.get("class") == "map"]) == 8


def test_images_that_failed_are_named_and_the_others_shown() -> None:
    compared = Compared()
    compared.images[1] = ListedImage("b", NAMES["b"], Path("b.jpg"), error=f"bad {SCRIPT}")
    text = render(compared)  # type: ignore[arg-type]
    assert len(re.findall('<article class="shown"', text)) == 2
    assert "2 of 3 images are shown; 1 could not be read or explained" in text
    assert "bad &lt;script&gt;" in text


def test_nothing_but_failures_is_a_report_too(tmp_path: Path) -> None:
    compared = Compared()
    for name in ("table", "summary"):
        empty = getattr(compared, name)().iloc[:0]
        setattr(compared, name, lambda empty=empty: empty)
    compared.images = [replace(image, error="truncated") for image in compared.images]
    compared.curves = lambda model, metric: {}  # type: ignore[method-assign]
    compared.unfinished = 2
    written = report(compared, tmp_path / "r.html")  # type: ignore[arg-type]
    text = written.read_text(encoding="utf-8")
    assert Outline(text).open == []
    assert "No values yet; see the failures below" in text
    assert "Unfinished: 2 images still to measure" in text
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


def test_of_many_images_some_are_shown_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "SHOWN", 2)
    text = render(Compared())  # type: ignore[arg-type]
    names = re.findall(r"<h3 title[^>]*>(.*?)</h3>", text, re.DOTALL)
    assert len(names) == 2
    assert "2 of 3 images are shown, evenly spread." in text


def test_images_link_to_their_explorer_pages(tmp_path: Path) -> None:
    compared = Compared()
    compared.folder = tmp_path / 'a:"b #1'
    pages = compared.folder / "explorer"
    pages.mkdir(parents=True)
    head = '<meta name="generator" content="vit_interactions 1"><meta name="image" content="{}">'
    (pages / 'c"at%.html').write_text(head.format(image_id(compared.folder / "a.jpg")))
    (pages / "another image.html").write_text(head.format(image_id(tmp_path / "b.jpg")))
    (pages / "foreign.html").write_text("mine")
    for start, address in ((compared.folder, "explorer/"), (tmp_path, "a%3A%22b%20%231/explorer/")):
        text = report(compared, start / "r.html").read_text(encoding="utf-8")  # type: ignore[arg-type]
        assert re.findall('<a href="(.*)">Explore its patches', text) == [f"{address}c%22at%25.html"]
        article = text[text.index("Explore its patches") :].split("</article>")[0]
        assert "Map of &lt;script&gt;" in article  # of image a
    assert "Explore its patches" not in render(compared)  # type: ignore[arg-type]


def test_a_report_is_the_same_each_time(text: str) -> None:
    assert render(Compared()) == text  # type: ignore[arg-type]


def test_a_real_comparison_makes_a_report(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    name = "<img src=x onerror='window.pwned = 1'>.png"
    Image.effect_noise((120, 90), 60).convert("RGB").save(pictures / name)
    (pictures / "broken.jpg").write_bytes(b"no image")
    model = timm.create_model("test_vit", num_classes=5).eval()
    methods = ["raw_attention", "gmar", "random_map"]
    compare([pictures], {SCRIPT: model}, methods, ["insertion"], out=tmp_path / "out")
    comparison = Comparison.open(tmp_path / "out")
    written = report(comparison, tmp_path / "report.html")
    with page(written, width=390, height=844) as p:
        assert p.errors == []
        assert p.run("window.pwned") is None
        assert p.run("document.querySelector('.shown h3').textContent") == name
        assert p.run("document.querySelectorAll('.map').length") == 3
        assert "broken.jpg" in p.run("document.querySelector('#failures').textContent")
        assert p.run("document.querySelectorAll('.wide .drawing').length") == 2  # curves and agreement
        insertion = p.run("+document.querySelector('#results table.values td').dataset.value")
    assert insertion == comparison.summary()["mean"][0]
    assert len(grid_figure(comparison, SCRIPT).axes) == 4
