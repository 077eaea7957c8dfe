"""A study resumes exactly, and refuses a folder of another one."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.field_studies import study_of_noise
from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.field_study import run
from vit_interactions.field_study.run import StudyResult, StudySettings, study_images

SETTINGS = StudySettings((0.1, 0.3))


def study(tmp_path: Path, name: str, settings: StudySettings = SETTINGS, *, resume: bool = False) -> StudyResult:
    """Study three images, the same in each call, and write into a folder."""
    (tmp_path / name).mkdir(exist_ok=True)
    folder = tmp_path / "images"
    images = reread(folder) if folder.exists() else study_of_noise(folder)
    *_, result = study_images(sharp_vit(img_size=64), images, settings, tmp_path / name, resume=resume)
    return result


def reread(folder: Path) -> list[run.StudyImage]:
    copies = study_of_noise(folder.with_name(f"copy{len(list(folder.parent.iterdir()))}"))
    return [replace(copy, path=folder / copy.path.name) for copy in copies]


def test_an_interrupted_study_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study(tmp_path, "whole")
    assert sorted(whole.measured) == [0, 1, 2]
    assert whole.measured[0][0.1, "real"] != whole.measured[1][0.1, "real"]
    out = tmp_path / "stopped"
    out.mkdir()
    steps = study_images(sharp_vit(img_size=64), reread(tmp_path / "images"), SETTINGS, out)
    next(steps)
    steps.close()
    (out / ".per_image.csv.partial").write_text("left by a killed run")
    count = []
    measure = run.measure_image
    monkeypatch.setattr(run, "measure_image", lambda *a, **k: count.append(1) or measure(*a, **k))
    study(tmp_path, "stopped", resume=True)
    assert len(count) == 2
    for name in ("per_image.csv", "study.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["per_image.csv", "study.json"]


def test_other_studies_are_refused(tmp_path: Path) -> None:
    study(tmp_path, "out")
    before = (tmp_path / "out" / "per_image.csv").read_bytes()
    with pytest.raises(ValueError, match=r"which has a study\. Resume it"):
        study(tmp_path, "out")
    with pytest.raises(ValueError, match=r"other settings: beta was 0\.2, now is 0\.3"):
        study(tmp_path, "out", replace(SETTINGS, beta=0.3), resume=True)
    with pytest.raises(ValueError, match="other settings: seed was 0, now is 1"):
        study(tmp_path, "out", replace(SETTINGS, seed=1), resume=True)
    images = reread(tmp_path / "images")
    with pytest.raises(ValueError, match="with other images"):
        list(study_images(sharp_vit(img_size=64), images[:2], SETTINGS, tmp_path / "out", resume=True))
    other = sharp_vit(img_size=64)
    other.norm.weight.data.mul_(2)
    with pytest.raises(ValueError, match="with other model: weights was"):
        list(study_images(other, images, SETTINGS, tmp_path / "out", resume=True))
    assert (tmp_path / "out" / "per_image.csv").read_bytes() == before
    with pytest.raises(ValueError, match=r"must contain at least 2 .* got 1"):
        list(study_images(other, images[:1], SETTINGS, tmp_path / "new"))
    with pytest.raises(ValueError, match="must be an empty folder or that of a study"):
        list(study_images(other, images, SETTINGS, tmp_path / "images"))


def test_an_image_that_fails_is_recorded_and_skipped(tmp_path: Path) -> None:
    images = study_of_noise(tmp_path / "images")
    images[1].path.unlink()
    (tmp_path / "out").mkdir()
    *_, result = study_images(sharp_vit(img_size=64), images, SETTINGS, tmp_path / "out")
    assert sorted(result.measured) == [0, 2]
    assert "got nothing at" in result.failed[str(images[1].path)]
