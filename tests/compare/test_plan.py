"""Tests of the plan of a comparison: arguments, boxes per image, and file names."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import vit_interactions as vi
from tests.helpers.compared import make_model
from tests.helpers.comparing import FIRST, _first
from tests.helpers.resumed import compare
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.plan import slugs


def test_folders_distinguish_the_boxes_of_images_with_one_name(model: nn.Module, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    paths = [tmp_path / place / "cat.png" for place in ("one/pets", "other/pets", "other/wild")]
    for path in paths:
        path.parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    images = [*paths, Image.open(paths[2])]
    table = tmp_path / "boxes.csv"

    def boxes(*names: str) -> list[list[float]]:
        rows = [f"{name},{left},0,64,64\n" for left, name in enumerate(names)]
        table.write_text("file,left,top,right,bottom\n" + "".join(rows))
        comparison = vi.compare(images, model, ["random_map"], ["iou"], boxes=table)
        assert len(comparison.failures()) == sum(not each.boxes for each in comparison.images)
        return [[box.left for box in each.boxes] for each in comparison.images]

    # A Pillow image counts as the file that it was opened from.
    assert boxes("one/pets/cat.png", "wild/cat.png", "./other/pets/cat.png") == [[0], [2], [1], [1]]
    assert boxes("wild/cat.png", str(paths[2]), "dog.png", "ts/cat.png", "wild/cat.png") == [
        [],
        [],
        *[[0, 4, 1]] * 2,
    ]
    for name, places in {
        "cat.png": ("one/pets", "other/pets"),
        "pets/cat.png": ("one/pets", "other/pets"),
    }.items():
        both = ".*".join(f"{place}/cat" for place in places)
        with pytest.raises(
            ValueError, match=f"`boxes` must identify each image, got '{name}', which matches .*{both}"
        ):
            boxes(name)
    # One image that is given twice is one.
    twice = vi.compare([paths[0], paths[0]], model, ["random_map"], [], boxes=table_of(table, "cat.png"))
    assert [len(each.boxes) for each in twice.images] == [1, 1]


def table_of(path: Path, name: str) -> Path:
    path.write_text(f"file,left,top,right,bottom\n{name},0,0,64,64\n")
    return path


def test_wrong_arguments_raise_before_anything_is_computed(
    model: nn.Module, image_files: list[Path], tmp_path: Path
) -> None:
    def refused(match: str, *arguments: object, **options: object) -> None:
        with pytest.raises(ValueError, match=match):
            vi.compare(*arguments, **options)  # type: ignore[arg-type]

    refused("`images` must contain at least one image, got none", [], model)
    (tmp_path / "empty").mkdir()
    refused("which contains none", [tmp_path / "empty"], model)
    refused("which does not exist", [tmp_path / "gone.png"], model)
    refused("Did you mean gmar", image_files, model, ["gmarr"])
    refused("`methods` must name at least one", image_files, model, [])
    refused(r"got 'pointing_gam'\. Did you mean pointing_game", image_files, model, None, ["pointing_gam"])
    refused("`boxes` or `masks` must be given", image_files, model, None, ["pointing_game"])
    refused("'first' twice", image_files, model, None, [FIRST, FIRST])
    refused("`target` must be a class >= 0", image_files, model, target="label")
    refused("`target` must be a class >= 0", image_files, model, target=-1)
    refused("`boxes` must be given for `target`", image_files, model, target="boxes")
    refused("`alpha` must lie in", image_files, model, alpha=2)
    refused("`model` must name at least one", image_files, {})
    refused("pretrained_cfg", image_files, nn.Linear(1, 1))
    refused("`out` must be a folder to resume", image_files, model, resume=True)
    refused("`batch_size` must be an int >= 1, got 0", image_files, model, batch_size=0)
    refused("must be an empty folder or that of a comparison", image_files, model, out=image_files[0].parent)
    refused("is a file", image_files, model, out=image_files[0])
    with pytest.raises(TypeError, match=r"`model` must be a name, a model, or a dict .* got list"):
        vi.compare(image_files, [model])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`methods` must be names, or a mapping .* got GMAR in a list\."):
        vi.compare(image_files, model, [vi.GMAR(model)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"`metrics` must be names or .*Metric`, got function"):
        vi.compare(image_files, model, ["gmar"], [_first])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError, match=r"`boxes` must be a file, got nothing at .*no\.csv"):
        vi.compare(image_files, model, boxes=tmp_path / "no.csv")
    with pytest.raises(TypeError, match="`images` must be paths or Pillow images, got int"):
        vi.compare([3], model)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"has no comparison\.json"):
        Comparison.open(image_files[0].parent)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,left,top,right,bottom\nother.png,0,0,1,1\n")
    refused("got e.g. 'other.png'", image_files, model, boxes=boxes)
    assert sorted(path.name for path in image_files[0].parent.iterdir()) == ["square.png", "tall.png", "wide.png"]


def test_keys_are_unique_file_names() -> None:
    names = ["../../etc/passwd", "<script>alert(1)</script>.png", "A.png", "a.jpg", "..", "x" * 300, "\udcff.png"]
    keys = slugs(names)
    assert keys == ["etc-passwd", "script-alert-1-script", "a", "a-2", "unnamed", "x" * 60, "unnamed-2"]


def test_a_class_that_one_model_lacks_is_found_before_the_run(root: Path) -> None:
    torch.manual_seed(1)
    wide = timm.create_model("test_vit", num_classes=30, img_size=64)
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 4\] for the 5 classes of five, got 20"):
        compare(root, model={"five": make_model(), "thirty": wide}, target=20)
