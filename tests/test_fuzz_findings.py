"""Regression tests for problems that the fuzz tests found, one per kind."""

import errno
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vit_interactions as vi
from tests.helpers.fuzzed import run
from vit_interactions.images.masks import masks_by_image, unused_masks
from vit_interactions.loading.classifiers import create_classifier, load_classifier
from vit_interactions.loading.predictions import model_output, predict
from vit_interactions.training.data.folders import ImageFolder
from vit_interactions.training.export import export_model
from vit_interactions.utilities.files import WriteError


def test_a_link_to_itself_is_one_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").symlink_to("2.png")
    images = ImageFolder(tmp_path)
    assert images.filenames() == ["a/1.png", "a/2.png"]
    with pytest.raises(OSError, match="`image` must be a file that can be read"):
        images[1]


@pytest.mark.parametrize("shape", [(), (2,), (2, 63), (2, 64, 1)])
def test_a_classifier_of_another_shape_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=2).state_dict()
    for key in ("head.weight", "head.bias"):
        if state[key].shape != shape:
            save_file(state | {key: torch.zeros(shape)}, tmp_path / "a.safetensors")
            with pytest.raises(ValueError, match=f"does not fit test_vit: it has `{key}` of shape"):
                create_classifier("test_vit", 2, checkpoint=tmp_path / "a.safetensors")


def test_a_classifier_of_two_numbers_of_classes_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=2).state_dict()
    save_file(state | {"head.weight": torch.zeros(7, 64)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"does not fit test_vit: it has `head.weight` of shape \(7, 64\)"):
        create_classifier("test_vit", 2, checkpoint=tmp_path / "a.safetensors")


def test_a_classifier_of_another_number_of_classes_or_none_is_reinitialized(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=7).state_dict()
    save_file(state, tmp_path / "seven.safetensors")
    bare = {key: value for key, value in state.items() if not key.startswith("head.")}
    save_file(bare, tmp_path / "bare.safetensors")
    for name in ("seven", "bare"):
        model, notes = create_classifier("test_vit", 2, checkpoint=tmp_path / f"{name}.safetensors")
        assert model.state_dict()["head.weight"].shape == (2, 64)
        assert len(notes) == 1
        assert "re-initialized" in notes[0]
        assert all(torch.equal(model.state_dict()[key], value) for key, value in bare.items())


def test_a_trained_model_has_its_whole_classifier(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=2).state_dict()
    del state["head.bias"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="`checkpoint` must contain the whole classifier of test_vit"):
        load_classifier("test_vit", tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_no_prediction(value: float) -> None:
    model = timm.create_model("test_vit", num_classes=2).eval()
    torch.nn.init.constant_(model.head.weight, value)
    with pytest.raises(ValueError, match="`model` must return finite scores"):
        predict(model, torch.rand(1, 3, 160, 160), named=False)


def test_a_score_of_minus_infinity_is_a_class_that_is_left_out() -> None:
    model = timm.create_model("test_vit", num_classes=3).eval()
    torch.nn.init.constant_(model.head.bias[:1], -float("inf"))
    found = model_output(model, torch.rand(1, 3, 160, 160))
    assert found is not None
    assert found.scores[0] == 0


def test_masks_that_fit_no_image_are_counted(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        Image.new("L", (8, 8), 1).save(tmp_path / f"{name}.png")
    used = masks_by_image(tmp_path, [Path("/images/cat.jpg")]).values()
    assert unused_masks(tmp_path, used) == ["1 of 2 `masks` match no image and are not used, e.g. 'dog.png'"]
    assert unused_masks(tmp_path, tmp_path.glob("*.png")) == []


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_a_comparison_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = import_module("vit_interactions.compare.manifest")
    monkeypatch.setattr(manifest, "to_rgb", lambda image: type("Full", (), {"save": full})())
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


def test_the_error_of_a_curve_is_its_last_line(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=2).state_dict()
    state["blocks.0.attn.qkv.weight"] *= float("nan")
    save_file(state, tmp_path / "a.safetensors")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    options = ["--model", "test_vit", "--checkpoint", tmp_path / "a.safetensors", "--out", tmp_path / "a.pdf"]
    ended = run("curve", tmp_path / "a.png", *options)
    assert ended.code == 2
    assert ended.text.rstrip().splitlines()[-1].startswith("error: the attention of layer 0")
