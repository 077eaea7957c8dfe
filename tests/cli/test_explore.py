"""`vit-interactions explore`: a page for each image."""

import re
from pathlib import Path

import pytest

import vit_interactions as vi
from tests.helpers.command_line import run
from vit_interactions.explorer.page_files import image_id
from vit_interactions.loading.models import load_model


def test_explore_writes_a_page_for_each_image_that_can_be_read(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images[0].parent
    (folder / "text.jpg").write_text("<script>alert(1)</script>")
    (folder / "truncated.png").write_bytes(images[0].read_bytes()[:5000])
    hostile = folder / "<img src=x onerror=alert(1)>.png"
    hostile.write_bytes(images[0].read_bytes())
    out = tmp_path / "out"
    options = ("--model", "test_vit", "--checkpoint", checkpoint, "--out", out)
    assert run("explore", folder, "gone.png", *options, "--alpha", "0.05") == 1
    safe = "_img src=x onerror=alert(1)_"
    assert sorted(path.name for path in out.iterdir()) == [f"{safe}.html", "tall.html", "wide.html"]
    shown = capsys.readouterr().err
    assert f"Wrote 3 pages to {out}/; 3 of 6 images failed\n" in shown
    for name in ("text.jpg", "truncated.png", "gone.png"):
        assert re.search(rf"failed: .*{name}", shown)
    model = load_model("test_vit", checkpoint)
    page = vi.explorer(model, images[0], alpha=0.05)
    data = re.compile(r'<script type="text/plain" id="(\w+)">(.*)</script>')
    assert data.findall((out / "tall.html").read_text()) == data.findall(page.html)
    assert {name for name, _ in data.findall(page.html)} > {"pairs", "attention"}
    assert "<img src=x" not in (out / f"{safe}.html").read_text()
    other = tmp_path / "other" / "tall.png"
    other.parent.mkdir()
    images[1].rename(other)
    assert run("explore", other, images[0], *options) == 0  # replaces its own page, not that of the other image
    assert sorted(path.name for path in out.iterdir()) == [f"{safe}.html", "tall-2.html", "tall.html", "wide.html"]
    for name, source in (("tall.html", images[0]), ("tall-2.html", other)):
        assert f'<meta name="image" content="{image_id(source)}">' in (out / name).read_text()

    assert run("explore", folder, *options, "--alpha", "2") == 2
    assert "`--alpha` must lie in [0, 1], got 2.0" in capsys.readouterr().err
    assert run("explore", folder, *options[:-1], checkpoint) == 2
    assert "`--out` must be a folder" in capsys.readouterr().err
