"""Tests of the command that prints the probe's findings."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.families import tiny
from tests.helpers.twins import SIDE, Outer, attending, one_by_one, vit
from vit_interactions.attention.probe import WITHOUT_ATTENTION
from vit_interactions.cli.inspect import lines_about, lines_of


def test_the_command_prints_patches_readout_and_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "--model", "vit_mini_patch8_112") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image: 112 x 112 px"
    assert lines[1].startswith("14 x 14 patches of 8 x 8 px, 1 prefix token, read from: class token")
    assert lines[2].startswith("layer 0: blocks.0.attn, ")


def test_unsupported_size_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "--model", "vit_mini_patch8_112", "--img-size", 100, 64) != 0
    assert "must be images that VisionTransformer takes, got 3 x 100 x 64" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_checkpoint_of_other_classes_is_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    weights = timm.create_model("vit_mini_patch8_112", num_classes=7).state_dict()
    if suffix == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    assert run("inspect", "--model", "vit_mini_patch8_112", "--checkpoint", path) == 0
    assert "14 x 14 patches of 8 x 8 px, 1 prefix token, read from: class token, 6" in capsys.readouterr().out
    del weights["blocks.5.attn.qkv.weight"]
    torch.save(weights, path.with_name("broken.pth"))
    assert run("inspect", "--model", "vit_mini_patch8_112", "--checkpoint", path.with_name("broken.pth")) != 0
    assert "it has no `blocks.5.attn.qkv.weight`" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("size", [(0, 112), (112, -8)])
def test_a_size_of_no_pixels_names_the_option(size: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "--model", "vit_mini_patch8_112", "--img-size", *size) != 0
    assert "`--img-size` must be a pair of ints > 0" in capsys.readouterr().err


def test_a_model_without_attention_is_told_what_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "weights.safetensors")
    options = ("--checkpoint", tmp_path / "weights.safetensors", "--img-size", 64, 96)
    assert run("inspect", "--model", "test_convnext", *options) == 0
    image, refusal, cams, methods = capsys.readouterr().out.splitlines()
    assert image == "image: 64 x 96 px"
    assert refusal.startswith("methods that read attention do not work: ConvNeXt made no call")
    assert WITHOUT_ATTENTION not in refusal
    assert cams == "CAMs read `norm_pre`: 2 x 3 cells of 32 x 32 px"
    assert {"attn_lrp", "gradcam", "saliency"} <= set(methods.removeprefix("methods that work: ").split(", "))


def test_cams_without_a_place_are_not_offered() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.Flatten(), nn.Linear(64, 5))
    model[0].weight.requires_grad_(False).fill_(0.1)
    *_, cams, methods = lines_about(Outer(model, lambda x: x.roll(32, -1)).eval(), (64, 64))
    assert cams.startswith("CAMs do not work: no module of Outer has features that form a grid")
    assert "gradcam" not in methods
    assert "occlusion" in methods


def test_split_layers_pooling_heads_and_ignored_calls_are_named() -> None:
    assert "layer 0: blocks.0.attn, 4 heads in 4 calls" in lines_of(
        vi.probe(attending(one_by_one, num_heads=4), (SIDE, SIDE))
    )
    pooled = tiny("vit_base_patch16_siglip_224", img_size=SIDE)
    assert list(lines_of(vi.probe(pooled, (SIDE, SIDE))))[-1] == "pooling head: attn_pool"

    class Spare(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x):  # type: ignore[no-untyped-def]
            self.block(x)
            return x

    model = vit()
    model.blocks[2] = Spare(model.blocks[2])
    assert list(lines_of(vi.probe(model, (SIDE, SIDE))))[-1].startswith("ignored: blocks.2.block.attn, ")
