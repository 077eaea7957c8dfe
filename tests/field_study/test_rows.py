"""Rows survive a restart, and damaged, edited or incomplete ones are measured again."""

from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import pytest

from tests.helpers.field_studies import study_of_noise, values
from vit_interactions.field_study.rows import Rows

ALPHAS = (0.1, 0.025)


def filled(tmp_path: Path) -> Rows:
    rows = Rows(tmp_path, study_of_noise(tmp_path / "images"), ALPHAS)
    for number in (2, 0, 1):
        rows.add(number, values(ALPHAS, size_auc=number / 3))
    return rows


def kept(rows: Rows, tmp_path: Path, alphas: tuple[float, ...] = ALPHAS) -> list[int]:
    return sorted(Rows(tmp_path, rows._images, alphas).measured)


def test_rows_are_read_back_exactly(tmp_path: Path) -> None:
    rows = filled(tmp_path)
    again = Rows(tmp_path, rows._images, ALPHAS)
    assert again.measured == rows.measured
    assert again.measured[1][0.025, "noise_image"]["size_auc"] == 1 / 3
    lines = rows.path.read_text().splitlines()
    assert len(lines) == 1 + 3 * 2 * 6
    assert lines[1].startswith("0,image0.png,0.1,real,0.25,0.25,0.0,0.25,")  # in the order of images


def test_names_cannot_run_as_formulas(tmp_path: Path) -> None:
    images = study_of_noise(tmp_path / "images")
    images[0] = replace(images[0], path=images[0].path.rename(tmp_path / "images" / "=1+1.png"))
    rows = Rows(tmp_path, images, ALPHAS)
    rows.add(0, values(ALPHAS))
    assert rows.path.read_text().splitlines()[1].startswith("0,'=1+1.png,0.1,")
    assert sorted(Rows(tmp_path, images, ALPHAS).measured) == [0]


def test_missing_values_are_empty(tmp_path: Path) -> None:
    rows = filled(tmp_path)
    rows.add(1, values(ALPHAS, tendency_cosine=nan))
    assert isnan(Rows(tmp_path, rows._images, ALPHAS).measured[1][0.1, "real"]["tendency_cosine"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1,image1.png,0.1,real,0.25", "1,image1.png,0.1,real,0.35"),
        ("1,image1.png,0.1,real,0.25", "1,image1.png,0.1,real,many"),
        ("1,image1.png,0.1,real,", "1,image1.png,0.1,unreal,"),
        ("1,image1.png,0.1,real,", "7,image1.png,0.1,real,"),
        ("1,image1.png,0.1,real,0.25,", "1,image1.png,0.1,real,"),
    ],
)
def test_damaged_rows_are_dropped_with_their_image(tmp_path: Path, old: str, new: str) -> None:
    rows = filled(tmp_path)
    text = rows.path.read_text()
    assert old in text
    rows.path.write_text(text.replace(old, new))
    assert kept(rows, tmp_path) == [0, 2]


def test_rows_of_other_images_alphas_or_a_truncated_file_are_dropped(tmp_path: Path) -> None:
    rows = filled(tmp_path)
    assert kept(rows, tmp_path, (0.1,)) == []
    rows._images[1] = replace(rows._images[1], sha256="0" * 64)  # type: ignore[index]
    assert kept(rows, tmp_path) == [0, 2]
    content = rows.path.read_bytes()
    rows.path.write_bytes(content[: len(content) - 30])
    assert kept(rows, tmp_path) == [0]
    rows.path.write_bytes(b"\xff\0" + content[2000:])
    kept(rows, tmp_path)  # anything may follow, but no error
    rows.path.unlink()
    rows.path.mkdir()
    with pytest.raises(ValueError, match="must be a file, got a folder"):
        kept(rows, tmp_path)


def test_names_with_commas_line_breaks_and_undecodable_bytes(tmp_path: Path) -> None:
    images = study_of_noise(tmp_path / "images", 2)
    images[0] = replace(images[0], path=Path('a,"b"\n\udc80.png'))
    rows = Rows(tmp_path, images, ALPHAS)
    rows.add(0, values(ALPHAS))
    assert Rows(tmp_path, images, ALPHAS).measured == rows.measured
