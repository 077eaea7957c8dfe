"""Tests of results in notebooks: tables and figures, bounded, escaped, for light and dark, and in a real kernel."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

import vit_interactions as vi
from tests.helpers.browser import Page, page
from tests.helpers.compared import COLS, IMAGE, MEANS, METHODS, NAMES, ROWS, SCRIPT, SIZES, Compared
from tests.helpers.documents import ROOT, blocks
from tests.helpers.pages import Outline
from vit_interactions.compare import run
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.report.figures import agreement_figure, curves_figure, grid_figure, ranking_figure
from vit_interactions.compare.report.notebook import notebook_html
from vit_interactions.figures import curve_figure
from vit_interactions.figures.shown import ShownFigure
from vit_interactions.figures.training import training_figure
from vit_interactions.functional import responsive_field
from vit_interactions.functional.responsive_field import field_from_windows

Show = Callable[..., Any]


def html_of(compared: Compared) -> str:
    return notebook_html(compared)  # type: ignore[arg-type]


def write(path: Path, text: str, style: str = "") -> Path:
    """Write a page with the output of a notebook, in its colors."""
    path.write_text(f"<!doctype html><meta charset=utf-8><body style='{style}'>{text}</body>", encoding="utf-8")
    return path


def cells(p: Page, of: str = "textContent") -> list[list[str]]:
    """Return the table's body; the interval is on the line below its number."""
    return list(
        p.run(f"[...document.querySelector('table').tBodies[0].rows].map(row => [...row.cells].map(c => c.{of}))")
    )


def test_the_table_shows_means_intervals_directions_and_the_best(tmp_path: Path) -> None:
    with page(write(tmp_path / "n.html", html_of(Compared()))) as p:
        heads = p.run("[...document.querySelectorAll('thead th')].map(head => head.textContent.trim())")
        assert heads == ["method", "insertion ↑", "deletion ↓", "sparsity"]
        hints = p.run("[...document.querySelectorAll('thead th')].map(head => head.title)")
        assert hints == ["", "higher is better", "lower is better", "neither end is better"]
        found = cells(p, "innerText")
        for row, method in zip(found, METHODS, strict=True):
            assert row[0].removesuffix(" (baseline)") == method
            for text, (direction, means) in zip(row[1:], MEANS.values(), strict=True):
                if method not in means:
                    assert text.strip().startswith("–")
                    continue
                mean, interval = re.split(r"\n+", text.strip())[:2]
                low, high = interval.split(" – ")
                values = [float(each.replace("−", "-").replace(",", "")) for each in (mean, low, high)]
                expected = [means[method], means[method] - 0.1, means[method] + 0.1]
                assert values == pytest.approx(expected, rel=5e-3), (method, direction)
        marked = p.run(
            "[...document.querySelectorAll('td .best')].map(b => [b.closest('tr').cells[0].textContent,"
            " b.closest('td').cellIndex])"
        )
        ends = {"higher": max, "lower": min}
        best = [
            [ends[direction](means, key=lambda name: means[name]), place]
            for place, (direction, means) in enumerate(MEANS.values(), 1)
            if direction in ends
        ]
        assert sorted(marked) == sorted(best)
        assert "* marks means over fewer images" in p.run("document.body.textContent")


def test_means_over_fewer_images_show_their_number() -> None:
    compared = Compared()
    summary = compared.summary()
    assert " of 3 images" not in html_of(compared).split("</table>")[0]
    summary.loc[(summary["method"] == "gmar") & (summary["metric"] == "insertion"), "images"] = 2
    compared.summary = lambda confidence=0.95: summary  # type: ignore[method-assign]
    table = compared.table()
    table = table[(table["metric"] != "deletion") | (table["image"] == "a")]
    compared.table = lambda: table  # type: ignore[method-assign]
    text = html_of(compared).split("</table>")[0]
    assert text.count('<span class="interval">2 of 3 images</span>') == 1  # the cell
    assert text.count('<span class="interval">1 of 3 images</span>') == 1  # the head of deletion
    first = text.split("<tbody>")[1].split("</tr>")[0]
    assert "2 of 3" in first
    assert "best" not in first  # a mean over fewer is not ranked


def test_no_name_becomes_a_tag_and_no_script_runs(tmp_path: Path) -> None:
    compared = Compared((SCRIPT, "</style></table>" + IMAGE))
    text = html_of(compared)
    outline = Outline(text)
    assert outline.open == []
    tags = {tag for tag, _ in outline.tags}
    assert tags.isdisjoint({"script", "svg", "iframe", "object", "embed", "link", "form", "button", "input"})
    for tag, attributes in outline.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert re.match(r"data:image/[\w+-]+;base64,", attributes.get("src") or "data:image/png;base64,")
        assert "href" not in attributes
    assert len(re.findall("<style>", text)) == 1
    with page(write(tmp_path / "n.html", text)) as p:
        assert p.run("window.pwned") is None
        assert p.requests == [(tmp_path / "n.html").as_uri()]
        said = p.run("document.body.textContent")
        assert NAMES["a"][:40] in said
        assert "{{ 7 * 7 }}" in said
        assert SCRIPT in said


def test_a_few_images_are_shown_with_their_maps_at_their_places(tmp_path: Path) -> None:
    compared = Compared()
    compared.images[0] = replace(compared.images[0], error="truncated")
    with page(write(tmp_path / "n.html", html_of(compared))) as p:
        assert p.run("document.querySelectorAll('.shown').length") == 2
        assert p.run("document.querySelectorAll('.map').length") == 2 * len(METHODS)
        captions = p.run("[...document.querySelectorAll('figcaption')].map(each => each.textContent)")
        assert captions[: 1 + len(METHODS)] == [
            *("image", "gmar", "attention_rollout", "random_map (baseline)"),
            "responsive_field_size, constant",  # ones
        ]
        box = p.run(
            """(() => {
                const canvas = document.querySelector('.canvas.pale').getBoundingClientRect();
                const map = document.querySelector('.map').getBoundingClientRect();
                return [(map.x - canvas.x) / canvas.width, map.width / canvas.width, map.height / canvas.height];
            })()"""
        )
        # By hand from PLACES["b"]: 48 columns of 10 pixels from pixel 260 on, of 1000 x 320.
        assert box == pytest.approx([0.26, 0.48, 1.0], abs=0.01)
        size = p.run("[document.querySelector('.map').naturalWidth, document.querySelector('.map').naturalHeight]")
        assert size == [COLS, ROWS]


class Large(Compared):
    """37 methods by 19 columns of numbers on many images, with maps of noise, which no file makes smaller."""

    def __init__(self, count: int) -> None:
        super().__init__(methods=[f"method_{number}_of_a_long_name" for number in range(37)])
        self.metrics = [f"a_metric_{number}" for number in range(19)]
        self.directions = dict.fromkeys(self.metrics, "higher")
        one = self.images[0]
        self.images = [replace(one, key=f"{number:06d}", name=f"{number:06d}.jpg") for number in range(count)]

    def table(self) -> pd.DataFrame:
        keys = [each.key for each in self.images]
        index = pd.MultiIndex.from_product(
            [self.models, keys, self.methods, self.metrics], names=["model", "image", "method", "metric"]
        )
        return pd.DataFrame({"value": 0.123}, index).reset_index()

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        rows = [
            ("vit", method, metric, 0.123, 0.1, 0.2, len(self.images), "higher")
            for method in self.methods
            for metric in self.metrics
        ]
        return pd.DataFrame(rows, columns=list(Compared.summary(Compared())))

    def failures(self) -> pd.DataFrame:
        rows = [
            ("vit", each.key, "method_0_of_a_long_name", "", f"reason {number}: " + 300 * "so ", "E")
            for number, each in enumerate(self.images)
        ]
        return pd.DataFrame(rows, columns=["model", "image", "method", "metric", "reason", "error"])

    def maps(self, model: str, key: str) -> dict[str, Any]:
        return {name: np.random.default_rng(number).random((14, 14)) for number, name in enumerate(self.methods)}

    def image(self, key: str) -> Image.Image:
        return Image.effect_noise(SIZES["a"], 80).convert("RGB")


def test_it_does_not_grow_with_the_images() -> None:
    few, many = html_of(Large(3)), html_of(Large(60))
    assert len(many) < 1e6
    assert len(many) < len(few) + 500
    assert "The first 3 of 60 images" in many


def test_failures_are_described_in_one_line() -> None:
    compared = Compared()
    text = html_of(compared)
    assert f"Failed: deletion of responsive_field_size on 3 images: undefined {SCRIPT}." in (
        text.replace("&lt;", "<").replace("&gt;", ">")
    )
    [line] = [line for line in html_of(Large(4)).split("\n") if "Failed:" in line]
    assert "method_0_of_a_long_name on 000000.jpg: reason 0: so" in line
    assert "3 more reasons: see <code>.failures()</code>" in line
    assert len(line) < 500
    rows = [("vit", "a", "gmar", metric, "no values", "E") for metric in ("deletion", "insertion")]
    frame = pd.DataFrame(rows, columns=list(compared.failures()))
    compared.failures = lambda: frame  # type: ignore[method-assign]
    assert "Failed: 2 metrics of gmar on &lt;script&gt;" in html_of(compared)
    compared.failures = lambda: frame.iloc[:0]  # type: ignore[method-assign]
    assert "Failed" not in html_of(compared)


def test_a_comparison_without_values_is_shown_too() -> None:
    compared = Compared()
    empty = compared.summary().iloc[:0], compared.table().iloc[:0]
    compared.summary = lambda confidence=0.95: empty[0]  # type: ignore[method-assign]
    compared.table = lambda: empty[1]  # type: ignore[method-assign]
    compared.images = [replace(image, error="truncated") for image in compared.images]
    text = html_of(compared)
    assert "No values yet" in text
    assert Outline(text).open == []


@pytest.mark.parametrize("width", [1200, 430])
@pytest.mark.parametrize(
    ("style", "ground", "ink"),
    [
        ("background: #111; color: #eee; --jp-layout-color0: #111", 17, 238),
        ("background: #fff; color: #222; --jp-layout-color0: #fff", 255, 34),
        ("background: #111; color: #eee", 17, 238),  # a notebook that does not define its colors
    ],
)
def test_it_is_readable_on_light_and_dark(tmp_path: Path, style: str, ground: int, ink: int, width: int) -> None:
    with page(write(tmp_path / "n.html", html_of(Compared(keys="a")), style), width=width) as p:
        colors = p.run(
            """[...document.querySelectorAll('.vit-comparison :is(th, td, p, figcaption, .best, .interval)')].map(
                each => [getComputedStyle(each).color, getComputedStyle(each).backgroundColor])"""
        )
        assert len(colors) > 20
        for color, background in colors:
            assert {int(part) for part in re.findall(r"\d+", color)[:3]} == {ink}, color
            red, *_, opacity = [*map(float, re.findall(r"[\d.]+", background)), 1.0][:4]
            assert red == ground or opacity < 0.25, background
        # Nothing lies on anything else, and no wider than the page.
        overlap = p.run(
            """[...document.querySelectorAll('table tr')].some(row => [...row.cells].some(cell =>
                cell.scrollWidth > cell.clientWidth + 1))"""
        )
        assert overlap is False
        assert p.run("document.documentElement.scrollWidth") <= max(width, 980)


def test_a_comparison_and_a_page_say_in_one_line_what_they_are(tmp_path: Path) -> None:
    manifest = {
        "settings": {"methods": {"gmar": {}}, "metrics": {"iou": {}, "deletion": {}}, "seed": 0},
        "versions": {},
        "models": {"vit": {"folder": "vit", "settings": "x"}},
        "images": [],
    }
    comparison = Comparison(Path("c"), manifest)
    assert repr(comparison) == "Comparison of 1 method, 2 metrics, 0 images, 1 model in c"
    assert repr(vi.ExplorerPage("x" * 2_340_000)) == "ExplorerPage of 2.3 MB"


FIGURES: dict[str, Show] = {
    "grid": lambda: grid_figure(Compared(keys="b"), "vit"),  # type: ignore[arg-type]
    "ranking": lambda: ranking_figure(Compared(), "vit", "deletion"),  # type: ignore[arg-type]
    "curves": lambda: curves_figure(Compared(), "vit", "insertion"),  # type: ignore[arg-type]
    "agreement": lambda: agreement_figure(Compared(), "vit"),  # type: ignore[arg-type]
    "sheet": lambda: curve_figure(vi.InteractionCurve((0.1, 0.2), torch.tensor([[3, 4]]), 16)),
    "training": lambda: training_figure(
        [{"step": 0, "loss": 1.0, "lr": 0.1}, {"step": 1, "loss": 0.5, "lr": 0.1}], []
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_png(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, ShownFigure)
    png, size = figure._repr_png_()
    width, height = figure.get_size_inches()
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.size == pytest.approx((width * figure.dpi, height * figure.dpi), abs=1)
    assert size == {"width": round(96 * width)}


def rows_of(text: str) -> list[list[str]]:
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]


def test_a_curve_is_a_table_in_a_notebook() -> None:
    curve = vi.InteractionCurve((0.025, 1.0), torch.tensor([[4, 16], [8, 16]]), 16)
    assert rows_of(curve._repr_html_())[1:] == [
        ["0.025", "6", "37.5%", "25.0% – 50.0%"],  # the mean of 4 and 8, of 16
        ["1", "16", "100.0%", "100.0% – 100.0%"],
    ]


def test_fields_are_a_table_in_a_notebook() -> None:
    # Three patches in a row; only patch 0 is related, to patch 2: windows of 3, 1 and 1 patches.
    uncertainty = torch.zeros(12, 3, 3)
    uncertainty[:, 0, 2] = 1.0
    fields = responsive_field(uncertainty, (1, 3), alpha=1 / 9, beta=0.0)
    rows = rows_of(fields._repr_html_())
    assert rows[1] == ["0", "1.7 (1 – 3)", "0", "55.6%", "55.6%"]  # 5 of 9 pairs
    assert len(rows) == 1 + 10
    assert "1 × 3 patches, 12 images, of which 10 are shown" in fields._repr_html_()
    windows = torch.tensor([[[0, 0, 2, 0], [1, 0, 1, 0], [2, 0, 2, 0]]])
    dropped = field_from_windows(windows, torch.tensor([[False, True, False]]), (1, 3))  # fields {0, 2}, {1}, {2}
    assert rows_of(dropped._repr_html_())[1] == ["0", "1.3 (1 – 2)", "1", "55.6%", "44.4%"]


def test_a_notebook_without_widgets_is_not_flooded_with_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(run, "console", Console(file=written, force_jupyter=True))
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with run.progress(2, run.Process(torch.device("cpu"), 0, 1)) as advance:
            advance(1, 1)
            advance(1, 1)
    assert written.getvalue() == ""


@pytest.mark.filterwarnings("ignore")  # Jupyter's own
def test_the_guide_shows_tables_and_figures_in_a_real_kernel(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    sources = blocks(ROOT / "docs" / "guides" / "notebook.md", "python")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = []
    for cell in notebook.cells:
        [shown] = [output for output in cell.outputs if output.output_type == "execute_result"]
        kinds.append("picture" if "image/png" in shown.data else "table" if "text/html" in shown.data else "text")
        assert len(shown.data["text/plain"]) < 10_000
        assert not [output for output in cell.outputs if "rich" in output.get("text", "")]
    assert kinds == ["table", "picture", "table", "picture", "table", "table"]
