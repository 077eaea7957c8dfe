"""`vit-interactions train`: errors that name the teacher."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from tests.helpers.command_line import run


def test_convolutional_teacher_raises_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "train" / kind / "a.png")
    torch.save(timm.create_model("resnet18", num_classes=2).state_dict(), tmp_path / "teacher.pt")
    options = ["--val-split", "", "--batch-size", "2", "--workers", "0", "--window-targets", "online"]
    options += ["--teacher", "resnet18", "--teacher-checkpoint", str(tmp_path / "teacher.pt")]
    assert run("train", tmp_path, "--out", tmp_path / "o", "--model", "test_winft", *options) == 2
    assert "error: `teacher` must be a plain timm ViT, got resnet18: " in capsys.readouterr().err
