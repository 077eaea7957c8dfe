"""A study resumes exactly, measures damaged images again, and refuses a folder of another one."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.noise import write_noise
from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.explain.configured import configure
from vit_interactions.pair_study import run
from vit_interactions.pair_study.measure import PairSettings
from vit_interactions.pair_study.run import PairStudy, study_pairs

SETTINGS = PairSettings(4, 2)
METHODS = configure(["interaction_uncertainty"])


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_noise(tmp_path / "images", {f"image{number}": (64, 64) for number in range(3)})


def study(images: list[Path], out: Path, settings: PairSettings = SETTINGS, *, resume: bool = False) -> PairStudy:
    out.mkdir(exist_ok=True)
    *_, result = study_pairs(sharp_vit(img_size=64), images, METHODS, settings, out, resume=resume)
    return result


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_an_interrupted_study_resumes_exactly(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study(images, tmp_path / "whole")
    assert list(whole.records) == [path.name for path in images]
    jsons = [record.as_json() for record in whole.records.values()]
    assert jsons[0] != jsons[1]
    out = tmp_path / "stopped"
    out.mkdir()
    steps = study_pairs(sharp_vit(img_size=64), images, METHODS, SETTINGS, out)
    next(steps)
    next(steps)
    steps.close()
    damaged = out / "images" / "00001.json"
    damaged.write_text(damaged.read_text()[:50])
    (out / "images" / "00002.json").write_bytes((out / "images" / "00000.json").read_bytes())  # of another image
    (out / "images" / ".00002.json.partial").write_text("left by a killed run")
    count = []
    measure = run.measure_pairs
    monkeypatch.setattr(run, "measure_pairs", lambda *a, **k: count.append(1) or measure(*a, **k))
    resumed = study(images, out, resume=True)
    assert len(count) == 2
    assert files(out) == files(tmp_path / "whole")
    assert [record.as_json() for record in resumed.records.values()] == jsons


def test_other_studies_are_refused(tmp_path: Path, images: list[Path]) -> None:
    study(images, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match=r"which has a study\. Resume it"):
        study(images, tmp_path / "out")
    with pytest.raises(ValueError, match="other settings: contexts was 2, now is 3"):
        study(images, tmp_path / "out", replace(SETTINGS, contexts=3), resume=True)
    with pytest.raises(ValueError, match="with other images"):
        study(images[:2], tmp_path / "out", resume=True)
    assert files(tmp_path / "out") == before


def test_an_image_that_cannot_be_read_fails_alone(tmp_path: Path, images: list[Path]) -> None:
    images[1].write_text("no image")
    result = study(images, tmp_path / "out")
    assert list(result.failed) == [str(images[1])]
    assert list(result.records) == [images[0].name, images[2].name]
