"""What the fuzz found, one test per kind."""

import errno
from importlib import import_module
from pathlib import Path

import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

import vit_interactions as vi
from vit_interactions.compare.masks import masks_by_photograph, unused_masks
from vit_interactions.process import start_process
from vit_interactions.training.data.folders import ImageFolder
from vit_interactions.training.export import export_model
from vit_interactions.training.settings import EvaluationSettings
from vit_interactions.training.start import create_trained
from vit_interactions.utilities.writing import WriteError


def test_a_link_to_itself_is_one_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").symlink_to("2.png")
    images = ImageFolder(tmp_path)
    assert images.filenames() == ["a/1.png", "a/2.png"]
    with pytest.raises(OSError, match="`image` must be a file that can be read"):
        images[1]


def test_a_trained_model_has_its_whole_classifier(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=2).state_dict()
    state["head.weight"] = state["head.weight"][:, :-1].contiguous()
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="`checkpoint` must hold the whole classifier of test_vit"):
        create_trained("test_vit", tmp_path / "a.safetensors")


def test_workers_have_a_limit_and_devices_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`workers`"):
        EvaluationSettings(data=tmp_path, model="test_vit", workers=10**30)
    with pytest.raises(ValueError, match="`device` must be"):
        start_process("--")


def test_masks_that_fit_no_image_are_counted(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        Image.new("L", (8, 8), 1).save(tmp_path / f"{name}.png")
    used = masks_by_photograph(tmp_path, [Path("/images/cat.jpg")]).values()
    assert unused_masks(tmp_path, used) == ["1 of 2 `masks` fit no image and are not used, e.g. 'dog.png'"]
    assert unused_masks(tmp_path, tmp_path.glob("*.png")) == []


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_a_comparison_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = import_module("vit_interactions.compare.plan")
    monkeypatch.setattr(plan, "to_rgb", lambda image: type("Full", (), {"save": full})())
    model = timm.create_model("test_vit", num_classes=2)
    with pytest.raises(WriteError, match="No space left"):
        vi.compare([Image.new("RGB", (32, 32))], model, ["random_map"], ["deletion"], out=tmp_path / "out")


def test_a_full_disk_ends_an_export_with_one_line(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    def broken(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_interactions.training.export.save_for_hf", broken)
        with pytest.raises(WriteError, match=r"could not be written: .*No space left.* Free some space"):
            export_model(timm.create_model("test_vit", num_classes=2), tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []
