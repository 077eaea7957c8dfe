"""Models and teachers created from settings."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vit_interactions as vi
from tests.helpers.command_line import failure
from tests.helpers.tiny_images import (
    SIZE,
    tiny_settings,
)
from vit_interactions.training.factory import create_teacher, input_config
from vit_interactions.utilities.processes import Process

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


CPU = Process(torch.device("cpu"))


def test_models_and_windows_that_exclude_each_other(
    image_folder: Path, teacher_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "train",
        image_folder,
        "--img-size",
        SIZE,
        "--batch-size",
        8,
        "--workers",
        0,
        "--out",
        tmp_path / "out",
    ]
    teacher = ["--teacher", "test_vit", "--teacher-checkpoint", teacher_weights]
    online = ["--window-targets", "online"]
    assert "`teacher` must be given for AdaptiveWindowViT" in failure(capsys, *common, "--model", "test_awd_vit")
    shown = failure(capsys, *common, "--model", "test_awd_vit", *teacher, *online)
    assert "`window_targets` must be none for AdaptiveWindowViT" in shown
    shown = failure(capsys, *common, "--model", "test_vit", *teacher, *online)
    assert "`window_targets` must be none for VisionTransformer, which has no windows" in shown
    assert "`teacher` must not be given" in failure(capsys, *common, "--model", "test_winft", *teacher)
    shown = failure(capsys, *common, "--model", "test_vit", "--window-fill", "zero")
    assert "`model` test_vit does not take" in shown
    shown = failure(capsys, *common, "--model", "test_winft", "--device", "cuda:99")
    assert "`device` must be auto or a device of this machine" in shown
    assert "Did you mean" in failure(capsys, *common, "--model", "winft_smal_patch16_224")
    assert not (tmp_path / "out").exists()


def test_teacher_with_another_normalization_gets_its_own(image_folder: Path, teacher_weights: Path) -> None:
    settings = tiny_settings(
        image_folder, teacher="test_vit", teacher_checkpoint=teacher_weights, window_targets="online", alpha=0.05
    )
    student = {"input_size": (3, SIZE, SIZE), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    own = timm.create_model("test_vit", num_classes=5, img_size=SIZE)
    own.load_state_dict(load_file(teacher_weights))
    wanted = {name: torch.tensor(own.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std")}
    pixels = torch.rand(2, 3, SIZE, SIZE)
    mean, std = (torch.tensor(student[name]).view(3, 1, 1) for name in ("mean", "std"))
    teacher = create_teacher(settings, student, CPU)
    assert teacher is not None
    assert isinstance(teacher.model, nn.Sequential)
    found = teacher((pixels - mean) / std)
    expected = vi.ResponsiveFieldSize(own.eval(), 0.05, 0.2).field((pixels - wanted["mean"]) / wanted["std"])
    assert torch.equal(found.mask, expected.mask)
    assert not torch.equal(found.mask, teacher((pixels - wanted["mean"]) / wanted["std"]).mask)


def test_teacher_is_built_for_the_students_image_size(image_folder: Path, tmp_path: Path) -> None:
    weights = timm.create_model("vit_tiny_patch16_224", depth=12, num_classes=3).state_dict()
    save_file(weights, tmp_path / "vit.safetensors")
    settings = tiny_settings(
        image_folder,
        img_size=None,
        window_targets="online",
        teacher="vit_tiny_patch16_224",
        teacher_checkpoint=tmp_path / "vit.safetensors",
    )
    config = input_config(timm.create_model("test_winft"), settings)
    teacher = create_teacher(settings, config, CPU)
    assert teacher is not None
    assert teacher(torch.zeros(1, 3, 160, 160)).grid == (10, 10)
