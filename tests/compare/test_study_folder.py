"""A study's folder is resumed only by the same study."""

from pathlib import Path

import pytest

from vit_interactions.compare.study_folder import open_study

CONTENT = {"settings": {"seed": 0}, "images": ["a"]}


def test_the_same_study_resumes_and_others_are_refused(tmp_path: Path) -> None:
    open_study(tmp_path, CONTENT, resume=False)
    before = (tmp_path / "study.json").read_bytes()
    (tmp_path / "rows.csv").write_text("1")
    (tmp_path / ".rows.csv.partial").write_text("left by a killed run")
    open_study(tmp_path, CONTENT, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "study.json"]
    with pytest.raises(ValueError, match=r"which has a study\. Resume it"):
        open_study(tmp_path, CONTENT, resume=False)
    with pytest.raises(ValueError, match="other settings: seed was 0, now is 1"):
        open_study(tmp_path, {**CONTENT, "settings": {"seed": 1}}, resume=True)
    with pytest.raises(ValueError, match=r"with other images\. Choose another folder"):
        open_study(tmp_path, {**CONTENT, "images": []}, resume=True)
    assert (tmp_path / "study.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="with other files"):
        open_study(tmp_path, CONTENT, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
