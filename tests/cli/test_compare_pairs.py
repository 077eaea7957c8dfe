"""`vit-interactions compare-pairs`: its table and files, how it resumes, and wrong arguments."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.helpers.command_line import failure, run
from tests.helpers.pair_studies import record_of
from vit_interactions import UnsupportedModelError
from vit_interactions.cli.compare_pairs import summary_table
from vit_interactions.cli.main import is_resumable
from vit_interactions.explain.registry import pair_methods
from vit_interactions.pair_study.baselines import PASSES
from vit_interactions.pair_study.panels import AREA_TITLES, CORRELATION_TITLES
from vit_interactions.pair_study.summary import summarize_pairs
from vit_interactions.utilities.console import output


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path, images: list[Path]) -> list[object]:
    model = ["--model", "test_vit", "--checkpoint", checkpoint, "--pairs", 6, "--contexts", 3, "--steps", 4]
    return ["compare-pairs", images[0].parent, *model, "--out", tmp_path / "out"]


def test_tables_and_resuming(command: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command) == 0
    shown = capsys.readouterr().out
    assert "2 images" in shown
    for name in ("closeness", "transformer attribution"):  # in both tables
        assert shown.count(f" {name} ") == 2
    out = tmp_path / "out"
    names = ["images", "pairs.csv", "pairs.png", "report.html", "study.json", "summary.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    summary = pd.read_csv(out / "summary.csv")
    distinct = {*pair_methods()} - {"responsive_field_tendency", "indiscriminative_patches"}
    assert set(summary["method"]) == {*distinct, *PASSES, "reliability"}
    assert set(summary.query("score == 'pair_area'")["scoring_forwards"]) == {2 * 3}
    assert len(pd.read_csv(out / "pairs.csv")) == 2 * 6
    with Image.open(out / "pairs.png") as image:
        assert min(image.size) > 300
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(*command, "--resume") == 0
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert is_resumable("compare-pairs")


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_console_without_cut_names(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_width", width)
    name = "transformer_attribution"
    record = record_of(0, noise=0.3)
    for part in (record.values, record.curves):
        part[name] = part["unrelated"]
    summary = summarize_pairs({"a.png": record, "b.png": record_of(1)}, {each: (1, 0) for each in record.values})
    summary["low"], summary["high"] = -0.25, 0.25
    for titles in (CORRELATION_TITLES, AREA_TITLES):
        output.print(summary_table(summary, "Title", titles))
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        [place] = [place for place, line in enumerate(lines) if " transformer attribution " in line]
        assert "(-0.25 to 0.25)" in lines[place + (width == 80)]
        assert "…" not in "".join(lines)


def test_wrong_arguments_are_one_line(
    command: list[object], images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "`--method` must have a pair map" in failure(capsys, *command, "--method", "legrad")
    assert "`layer` of raw_attention must be int" in failure(
        capsys, *command, "--method", "raw_attention:layer=top"
    )
    images[0].write_text("no image")
    assert run(*command, "--method", "gmar") == 1
    assert images[0].name in capsys.readouterr().err


def test_a_method_that_fails_is_reported(command: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--method", "generic_attention:start_layer=50", "--method", "gmar") == 1
    shown = capsys.readouterr()
    assert "`start_layer` must be < 6" in shown.err
    assert "gmar" in shown.out


def test_a_model_without_curves_gets_one_note(
    command: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise UnsupportedModelError("no token is left")

    monkeypatch.setattr("vit_interactions.pair_study.measure.pair_curves", unsupported)
    assert run(*command, "--method", "gmar") == 0
    shown = capsys.readouterr()
    assert shown.err.count("note: no second-order insertion and deletion: no token is left") == 1
    assert "gmar" in shown.out
