"""Tests of the headless browser that tests of pages use."""

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.browser import page

HTML = """<!doctype html><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>Käse</title>
<button style="position:absolute; top:2000px">press</button><input>
<script>
  window.seen = [];
  document.querySelector("button").onclick = event => seen.push("click", event.isTrusted);
  document.querySelector("input").onkeydown = event => seen.push(event.key, event.isTrusted);
</script>"""


@pytest.fixture
def html(tmp_path: Path) -> Path:
    path = tmp_path / "a page #1.html"
    path.write_text(HTML, encoding="utf-8")
    return path


def test_clicks_and_keys_are_a_persons(html: Path) -> None:
    with page(html) as p:
        p.click("button")
        p.click("input")
        p.key("ArrowLeft")
        p.key("a")
        assert p.run("seen") == ["click", True, "ArrowLeft", True, "a", True]
        assert p.run("document.querySelector('input').value") == "a"
        assert p.run("Promise.resolve(document.title)") == "Käse"
        assert p.errors == []
        assert [url.rsplit("/")[-1] for url in p.requests] == ["a%20page%20%231.html"]
        with pytest.raises(LookupError, match="select"):
            p.click("select")


def test_window_and_colors(html: Path, tmp_path: Path) -> None:
    for width, dark in ((390, True), (1000, False)):
        with page(html, width=width, height=700, dark=dark) as p:
            assert p.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
            p.screenshot(tmp_path / "shot.png")
            with Image.open(tmp_path / "shot.png") as shot:
                assert shot.size == (width, 700)


def test_errors_are_seen(html: Path) -> None:
    with page(html) as p:
        p.run("setTimeout(() => { throw new Error('thrown') })")
        p.run("console.error('said')")
        p.run("void fetch('https://example.org/').catch(() => 0)")
        errors = " | ".join(p.errors)
        assert "thrown" in errors
        assert "said" in errors
        assert "Content Security Policy" in errors
        with pytest.raises(RuntimeError, match="nothing_here"):
            p.run("nothing_here")
