"""Tests of resuming comparisons with other model options, or with missing parts."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.damaged_comparison import compare, make_model
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.report.page import report
from vit_interactions.explorer.pages import Pages


def other_heads(model: nn.Module) -> None:
    attention: Any = model.blocks[0].attn  # type: ignore[index]
    attention.num_heads, attention.head_dim = attention.num_heads * 2, attention.head_dim // 2


def other_mean(model: nn.Module) -> None:
    cfg: Any = model.pretrained_cfg
    model.pretrained_cfg = {**cfg, "mean": (0.50001, 0.5, 0.5)}


def other_crop(model: nn.Module) -> None:
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_pct": 0.5}  # type: ignore[dict-item]


def other_interpolation(model: nn.Module) -> None:
    model.pretrained_cfg = {**model.pretrained_cfg, "interpolation": "nearest"}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (other_heads, "architecture"),
        (other_mean, "normalization"),
        (other_crop, "preprocessing"),
        (other_interpolation, "preprocessing"),
    ],
)
def test_resuming_with_other_model_options_raises(
    change: Callable[[nn.Module], None], word: str, copied: Path
) -> None:
    compare(copied, resume=True)  # the same model, made again
    model = make_model()
    change(model)
    with pytest.raises(ValueError, match=f"started with other models: vit {word} was "):
        compare(copied, model={"vit": model}, resume=True)


def fake_report(comparison: Comparison, path: Path) -> Path:
    path.write_text("report")
    return path


@pytest.fixture
def command(copied: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a command line, for which no pages are made."""
    monkeypatch.setattr(sys.modules[Pages.__module__], "write_pages", lambda *_, **__: iter([Pages()]))
    monkeypatch.setattr(sys.modules[report.__module__], "report", fake_report)
    save_file(timm.create_model("test_vit", num_classes=5).state_dict(), copied / "weights.safetensors")
    model = ["--model", "test_vit", "--checkpoint", copied / "weights.safetensors"]
    return ["compare", copied / "images", *model, "--method", "raw_attention", "--out", copied / "new"]


def test_metrics_asked_for_without_any_value_are_an_error(
    copied: Path, command: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "boxes.csv").write_text("file,left,top,right,bottom,index\na.png,1,1,60,60,4\nb.png,1,1,60,60,4\n")
    boxes = ["--boxes", copied / "boxes.csv", "--target", "2"]
    asked = ["--metric", "pointing_game"]
    assert run(*command, *boxes, *asked) == 1
    assert "failed: no metric has a value under test_vit" in capsys.readouterr().err
    assert run(*command, *boxes, *asked, "--metric", "deletion", "--out", copied / "two") == 1
    assert "failed: pointing_game without any value under test_vit" in capsys.readouterr().err
    assert run(*command, *boxes, "--out", copied / "three") == 0, "metrics not named may be unsupported"


@pytest.mark.parametrize("damage", ["truncated", "size"])
def test_damaged_masks_are_an_error(
    damage: str, copied: Path, command: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    mask = copied / "masks" / "a.png"
    whole = mask.read_bytes()
    if damage == "truncated":
        mask.write_bytes(whole[:-30])
    else:
        Image.new("L", (7, 8), 255).save(mask)
    masks = ["--masks", copied / "masks", "--metric", "pointing_game"]
    assert run(*command, *masks) == 1
    assert f"{mask}" in capsys.readouterr().err
    mask.write_bytes(whole)
    assert run(*command, *masks, "--resume") == 0


def test_lost_explorer_pages_are_an_error(
    copied: Path, command: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> Any:
        yield Pages(failed={"a.png": "no space left"})

    monkeypatch.setattr(sys.modules[Pages.__module__], "write_pages", lost)
    assert run(*command, "--metric", "deletion") == 1
    assert "no explorer page of a.png: no space left" in capsys.readouterr().err


def test_a_model_without_explorer_is_a_note(
    copied: Path, command: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise vi.UnsupportedModelError("two towers")
        yield

    monkeypatch.setattr(sys.modules[Pages.__module__], "write_pages", refused)
    assert run(*command, "--metric", "deletion") == 0
    assert "note: no explorer pages: two towers" in capsys.readouterr().err
