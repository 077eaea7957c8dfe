"""Boxes: file encodings, Unicode normalization of names, and rows that match no image."""

from pathlib import Path
from unicodedata import normalize

import pytest
import timm
from PIL import Image

import vit_interactions as vi
from vit_interactions.images.boxes import (
    ObjectBox,
    boxes_by_image,
    boxes_of_class,
    read_boxes,
    unused_boxes,
)

ROW = "file,left,top,right,bottom\ncat.png,1,1,20,20\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_boxes_are_read_in_utf8_and_in_utf16_with_bom(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_bytes(ROW.encode(encoding))
    assert read_boxes(tmp_path / "boxes.csv") == {"cat.png": [ObjectBox(1, 1, 20, 20)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            ROW.encode() + "café.png,1,1,2,2\n".encode("latin-1"),
            r"UTF-8, got another encoding in line 3 of .*byte 0xe9",
        ),
        (ROW.encode() + b'"dog.png,1,1,2,2\n', r"every quote closed, got .* in line 3 of"),
        (ROW.encode() + b'"' + b"x" * 200_000, r"every quote closed, got .* in line 3 of"),
        (ROW.encode("utf-16")[:-1], r"not UTF-16"),
    ],
    ids=["latin-1", "quote", "long", "half a character"],
)
def test_errors_of_unreadable_boxes_name_file_and_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_boxes(tmp_path / "boxes.csv")
    assert str(tmp_path / "boxes.csv") in str(caught.value)


@pytest.mark.parametrize(("written", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_any_unicode_normalization(written: str, listed: str) -> None:
    name, path = (normalize(form, "Zoë/café.png") for form in (written, listed))
    boxes = {name: [ObjectBox(0, 0, 1, 1)]}
    assert boxes_by_image(boxes, [Path(path)]) == {Path(path): [ObjectBox(0, 0, 1, 1)]}
    assert unused_boxes(boxes, [Path(path)]) == []


def test_files_whose_names_differ_in_normalization_only() -> None:
    paths = [Path(normalize(form, "café.png")) for form in ("NFC", "NFD")]
    for path in paths:
        found = boxes_by_image({path.name: [ObjectBox(0, 0, 1, 1)]}, paths)
        assert [len(found[each]) for each in paths] == [int(each == path) for each in paths]


def test_boxes_that_match_no_image_are_reported(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "cat.png")
    (tmp_path / "boxes.csv").write_text(ROW + "dog.png,1,1,2,2\ndog.png,1,1,3,3\n")
    model = timm.create_model("test_vit", num_classes=5)
    comparison = vi.compare(
        [tmp_path / "cat.png"], model, ["random_map"], ["pointing_game"], boxes=tmp_path / "boxes.csv", target=0
    )
    assert comparison.notes()[0] == "2 of 3 rows of `boxes` match no image and are not used, e.g. 'dog.png'"


def test_missing_class_fails_before_the_run(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=5)
    for target in (5, -1):
        with pytest.raises(ValueError, match=r"`target` must"):
            vi.compare([Image.new("RGB", (64, 64))], model, ["random_map"], target=target, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "row", ["a,x,0,1,1,1", "a,0,0,1", "a,1,0,1,1,1", "a,0,0,1,1,-1", "a,0,0,inf,1,1", "a,0,0,1,1,x"]
)
def test_invalid_boxes_raise(row: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(f"file,left,top,right,bottom,index\na,0,0,1,1,2\n{row}\n")
    with pytest.raises(ValueError, match=r"`boxes` must have numbers .*, got .* in line 3 of"):
        read_boxes(path)


def test_boxes_are_read() -> None:
    assert boxes_of_class([ObjectBox(0, 0, 1, 1, 3), ObjectBox(0, 0, 1, 1, 4)], 4) == [ObjectBox(0, 0, 1, 1, 4)]


def test_boxes_need_their_columns(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("file,left,top\n")
    with pytest.raises(
        ValueError, match=r"`boxes` must have a column right and bottom, got .* with file, left, top"
    ):
        read_boxes(tmp_path / "boxes.csv")
