"""Images in one folder per class: listed in timm's order, or errors that name them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset

from vit_interactions.loading.class_maps import ClassNames
from vit_interactions.training.data.datasets import open_datasets, open_split
from vit_interactions.training.data.folders import ImageFolder, split_folder

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def make(root: Path, *names: str) -> Path:
    """Write images of one color each, whose red is the number of the image."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return root


def test_images_and_order_equal_timms(tmp_path: Path) -> None:
    make(tmp_path, "n10/10.png", "n10/9.jpg", "n9/a.JPEG", "n9/B.png", "N1/x.png")
    ours, timms = ImageFolder(tmp_path), create_dataset("", root=str(tmp_path), split="train")
    assert ours.class_to_idx == timms.reader.class_to_idx == {"N1": 0, "n9": 1, "n10": 2}
    assert (
        ours.filenames() == timms.filenames() == ["N1/x.png", "n9/a.JPEG", "n9/B.png", "n10/9.jpg", "n10/10.png"]
    )
    assert [number for _, number in ours.samples] == [number for _, number in timms.reader.samples]
    for index in range(len(ours)):
        assert np.array_equal(np.asarray(ours[index][0]), np.asarray(timms[index][0]))
    assert ours.filename(3) == "n10/9.jpg"


def test_names_that_differ_in_case_only_keep_one_order(tmp_path: Path) -> None:
    make(tmp_path, "cat/0.png", "Cat/0.png", "CAT/0.png", "²/0.png")
    assert list(ImageFolder(tmp_path).class_to_idx) == ["CAT", "Cat", "cat", "²"]


def test_unreadable_image_raises_and_is_not_replaced(tmp_path: Path) -> None:
    make(tmp_path, "a/0.png", "a/2.png", "b/0.png")
    (tmp_path / "a" / "1.png").write_bytes(b"broken")
    (tmp_path / "b" / "1.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "b" / "2.png")
    images = ImageFolder(tmp_path)
    assert len(images) == 6
    found = []
    for index, name in enumerate(images.filenames()):
        try:
            found.append((name, images[index][0].getpixel((0, 0))[0]))  # type: ignore[index]
        except (OSError, ValueError) as error:
            found.append((name, str(error)))
    assert [pixel for _, pixel in found[::2]] == [0, 1, found[4][1]]
    assert "a/1.png` is not an image that can be read" in found[1][1]
    assert "broken link" in found[4][1]
    assert "a named pipe" in found[5][1]


def test_other_formats_are_read_and_other_files_listed(tmp_path: Path) -> None:
    make(tmp_path, "a/0.webp", "a/1.bmp", "b/0.tif")
    for name in ("Thumbs.db", "notes.txt", ".DS_Store"):
        (tmp_path / "a" / name).write_text("x")
    (tmp_path / "readme.md").write_text("x")
    images = ImageFolder(tmp_path)
    assert images.filenames() == ["a/0.webp", "a/1.bmp", "b/0.tif"]
    assert images.others == ["a/Thumbs.db", "a/notes.txt", "readme.md"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["cat/in/0.png", "cat/out/0.png", "dog/in/0.png"],
            r"got cat/in/0.png, cat/out/0.png, dog/in/0.png in .*Move",
        ),
        (["cat/0.png", "cat/more/deep/0.png", "dog/0.png"], r"got cat/more/deep/0.png in .*Move the images up"),
        (["cat/0.png", "dog/0.png", "stray.jpg"], "must have images in class folders only, got stray.jpg"),
        ([], "must have one folder of images per class, got none"),
    ],
)
def test_misplaced_images_raise(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolder(make(tmp_path, *names))


def test_circular_links_end(tmp_path: Path) -> None:
    make(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "a" / "more").mkdir()
    for name in ("one", "two"):
        (tmp_path / "a" / "more" / name).symlink_to(tmp_path / "a" / "more")
    assert len(ImageFolder(tmp_path)) == 2


def test_empty_class_folders(tmp_path: Path) -> None:
    make(tmp_path, "a/0.png", "c/0.png")
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    with pytest.raises(ValueError, match=r"must have images of each class, got none in b\. Remove it"):
        ImageFolder(tmp_path)
    known = ImageFolder(tmp_path, ClassNames(("c", "b", "a"), "the model"))
    assert known.samples == [(str(tmp_path / "a" / "0.png"), 2), (str(tmp_path / "c" / "0.png"), 0)]


def test_folders_of_unknown_classes_raise(tmp_path: Path) -> None:
    make(tmp_path, "a/0.png", "birds/0.png", "zebra/0.png")
    with pytest.raises(ValueError, match=r"classes of the model only, got birds, zebra. Did you mean bird\? Make"):
        ImageFolder(tmp_path, ClassNames(("a", "bird"), "the model"))


def test_training_needs_two_classes(tmp_path: Path) -> None:
    make(tmp_path, "train/a/0.png", "val/a/0.png")
    with pytest.raises(ValueError, match="must have at least two classes to train on, got one: a"):
        open_datasets(tmp_path)
    assert open_datasets(tmp_path, classes=2).classes == 2
    assert len(open_split(tmp_path, "val")) == 1


def test_splits_have_timms_synonyms(tmp_path: Path) -> None:
    for name in ("train", "valid", "other"):
        (tmp_path / name).mkdir()
    found = {split: split_folder(tmp_path, split).name for split in ("training", "validation", "other", "test")}
    assert found == {"training": "train", "validation": "valid", "other": "other", "test": tmp_path.name}


def test_image_folders_have_no_fields(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"target_key": "label"}
    with pytest.raises(ValueError, match="`target_key` must not be given for folders of images"):
        open_split(make(tmp_path, "train/a/0.png"), "train", **keys)


def test_classes_of_torchvision_are_numbered_by_name(tmp_path: Path) -> None:
    data = make(tmp_path, "val/b/0.png", "val/c/0.png")
    classes = ClassNames(("c", "a", "b"), "the model")
    images = open_split(data, "val", kind="torch/image_folder", classes=classes)
    assert [images[index][1] for index in range(2)] == [2, 0]
    (data / "val" / "b" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(ValueError, match="not a supported image format"):
        images[0]
    with pytest.raises(ValueError, match="must have classes of the model only, got c"):
        open_split(data, "val", kind="torch/image_folder", classes=ClassNames(("a", "b"), "the model"))
