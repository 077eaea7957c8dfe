"""Datasets: class numbers, and errors for missing splits."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.tiny_images import (
    CLASSES,
    TRAIN,
    VAL,
    make_images,
)
from vit_interactions.training.data.datasets import open_datasets, open_split

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def test_classes_are_numbered_as_in_training(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data")
    for file in (data / "val" / "class0").iterdir():
        file.unlink()
    (data / "val" / "class0").rmdir()
    sources = open_datasets(data)
    assert (sources.classes, sources.names) == (3, ("class0", "class1", "class2"))
    assert sources.evaluation is not None
    assert [sources.evaluation[index][1] for index in range(len(sources.evaluation))] == [1] * VAL + [2] * VAL
    (data / "val" / "class2").rename(data / "val" / "dogs")
    with pytest.raises(
        ValueError, match=r"`data` must have classes of the split 'train' only, got dogs. Make the names agree"
    ):
        open_datasets(data)


def test_missing_datasets_raise(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"`data` must be a folder of images, got .*gone"):
        open_datasets(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no split 'train' and .* must have one folder of images per class"):
        open_datasets(tmp_path / "empty")
    flat = make_images(tmp_path / "data") / "train"
    with pytest.raises(ValueError, match="must have folders train and validation"):
        open_datasets(flat)
    assert open_datasets(flat, evaluation="").evaluation is None
    with pytest.raises(ValueError, match="`num_classes` must be >= 3, got 2"):
        open_datasets(flat, evaluation="", classes=2)
    with pytest.raises(ValueError, match=r"`dataset` must be empty or start with one of torch, .* got 'folder/x'"):
        open_datasets(flat, kind="folder/x")


@pytest.mark.parametrize("kind", ["", "torch/image_folder"])
def test_missing_split_is_not_replaced_by_another(kind: str, tmp_path: Path) -> None:
    data = make_images(tmp_path / "data")
    for split in ("test", "trian"):
        with pytest.raises(ValueError, match=rf"has no split '{split}'.* got train.class0.0.png"):
            open_split(data, split, kind=kind)
    assert len(open_split(data / "val", "validation", kind=kind)) == CLASSES * VAL
    shutil.rmtree(data / "val")
    with pytest.raises(ValueError, match=r"has no split 'validation'.* got train.class0.0.png"):
        open_datasets(data, kind=kind)


def test_torchvision_dataset(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data")
    sources = open_datasets(data, kind="torch/image_folder", training="train", evaluation="val")
    assert (sources.classes, len(sources.training)) == (3, CLASSES * TRAIN)
    assert sources.evaluation is not None
    assert len(sources.evaluation) == CLASSES * VAL
