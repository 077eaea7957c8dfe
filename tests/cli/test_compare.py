"""`vit-interactions compare`: its matrix, broken images and hostile names."""

from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.command_line import run
from tests.helpers.resumed import METHODS, METRICS, arguments, make_images
from vit_interactions.compare.comparison import Comparison


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_images(tmp_path)
    return tmp_path


def test_the_command_prints_a_matrix_of_means_and_writes_them(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configured = "gmar:norm=l1,alpha=0.5"
    given = [*arguments(root, checkpoint, "out"), "--method", configured]
    assert run(*given) == 0
    shown = capsys.readouterr()
    assert f"the results are in {root / 'out'}: table.csv and summary.csv" in shown.err
    summary = pd.read_csv(root / "out" / "summary.csv").set_index(["method", "metric"])
    lines = [line.split() for line in shown.out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line and line[0] in (*METHODS, configured)}
    assert list(rows) == [*METHODS, configured]  # as given
    for method, cells in rows.items():
        for metric, cell in zip(METRICS, cells[method == "random_map" :], strict=False):
            assert float(cell) == pytest.approx(summary.loc[(method, metric), "mean"], rel=5e-3)
    assert rows["random_map"][0] == "(baseline)"
    assert configured in set(pd.read_csv(root / "out" / "table.csv")["method"])
    before = (root / "out" / "comparison.json").read_text()
    assert run(*given) == 2
    assert "resume it (--resume)" in capsys.readouterr().err
    assert run(*given, "--resume") == 0
    assert (root / "out" / "comparison.json").read_text() == before


def test_broken_images_and_hostile_names_lose_nothing_else(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "images"
    sound = (folder / "a.png").read_bytes()
    names = ["<img src=x onerror=alert(1)>.png", "[red]b.png", "c\x1b[31m.png", "\udcff.png", "x" * 250 + ".png"]
    for name in names:
        (folder / name).write_bytes(sound)
    (folder / "[bold]\x1btext.jpg").write_text("<script>alert(1)</script>")
    (folder / "truncated.png").write_bytes(sound[:3000])
    assert run(*arguments(root, checkpoint, "out")) == 1
    shown = capsys.readouterr()
    assert "\x1b" not in shown.err + shown.out
    assert "[bold]\ufffdtext.jpg" in shown.err
    assert "truncated.png` is not an image that can be read" in shown.err
    comparison = Comparison.open(root / "out")
    images = {image.name: image for image in comparison.images}
    assert [name for name, image in images.items() if image.error is not None] == [
        "[bold]\ufffdtext.jpg",
        "truncated.png",
    ]
    assert len(comparison.table()["image"].unique()) == 4 + len(names)
    # The same pixels, the same values, whatever they are called; but they have no boxes.
    keys = [image.key for image in comparison.images if image.sha256 is not None]
    assert len(set(keys)) == 11
    deletion = comparison.table().query("metric == 'deletion' and method == 'raw_attention'")
    values = deletion.set_index("image")["value"]
    assert values["img-src-x-onerror-alert-1"] == values["a"] != values["b"]
    for name in names:
        written = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\x1b", "\ufffd")
        key = images[written].key
        assert comparison.image(key).size == (70, 80)
    failures = comparison.failures()
    assert set(failures[failures["metric"] == "pointing_game"]["image"]) == {
        images[name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\x1b", "\ufffd")].key
        for name in names
    }


def test_a_folder_without_images_raises(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    model = ("--model", "test_vit", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert run("compare", tmp_path / "empty", *model) == 2
    assert "which contains none" in capsys.readouterr().err
    assert run("compare", tmp_path / "empty", *model, "--model", "test_vit") == 2
    assert "`--checkpoint` must come with one --model, got 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty" / "text.jpg").write_text("no picture")
    assert run("compare", tmp_path / "empty", *model) == 1
    out, shown = capsys.readouterr()
    assert "failed: text.jpg: `" in shown
    assert out == ""  # no table without a row
    assert Comparison.open(tmp_path / "out").table().empty


def test_window_coverage_is_a_setting_of_the_comparison_and_of_its_explorer_pages(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(root, checkpoint, "out")
    assert run(*given, "--window-coverage", "0.7") == 0
    assert Comparison.open(root / "out").settings["coverage"] == 0.7
    [*pages] = (root / "out" / "explorer").glob("*.html")
    assert len(pages) == 4
    assert all("at least 70% of the patches relevant to it" in page.read_text() for page in pages)
    capsys.readouterr()
    assert run(*given, "--resume") == 2
    assert "coverage was 0.7, now is 1" in " ".join(capsys.readouterr().err.split())
    assert run(*given, "--window-coverage", "2") == 2
    assert "`--window-coverage` must lie in [0, 1], got 2.0." in capsys.readouterr().err
