"""open_clip's vision towers: layouts, maps by hand, and the command line."""

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.foreign import assert_read_as_by_hand, class_token, redraw
from vit_interactions.loading.models import load_model

open_clip = pytest.importorskip("open_clip")
transformer = pytest.importorskip("open_clip.transformer")
SIZE = (48, 64)


def before_the_view(attention: Tensor) -> GradientEdge:
    """Return the graph node of the tensor that this one is a view of."""
    return GradientEdge(*attention.grad_fn.next_functions[0])  # type: ignore[union-attr]


def tower(**options: Any) -> nn.Module:
    return redraw(transformer.VisionTransformer(SIZE, 16, 32, 2, 2, 2.0, output_dim=16, **options))


def attentions(model: Any) -> list[nn.Module]:
    """Return the attention modules, changed to return their attention."""
    modules = [block.attn for block in model.transformer.resblocks]
    for module in modules:
        module.register_forward_pre_hook(
            lambda _, args, options: (args, {**options, "need_weights": True, "average_attn_weights": False}),
            with_kwargs=True,
        )
    return modules


@pytest.mark.parametrize(
    ("options", "read_from"),
    [
        ({}, "class token"),
        ({"pool_type": "avg"}, "mean of the patches"),
        ({"output_tokens": True}, "class token"),
        ({"patch_dropout": 0.5}, "class token"),
        ({"block_type": "custom", "qk_norm": True}, "class token"),
        ({"attentional_pool": True, "attn_pooler_queries": 1}, "attention pooling"),
        # The features are those of the first of four latents, so what the others attend to does not count.
        ({"attentional_pool": True, "attn_pooler_queries": 4}, "the tokens, by weights that are not fixed"),
    ],
    ids=str,
)
def test_layouts(options: dict[str, Any], read_from: str) -> None:
    options = {"attn_pooler_heads": 2, **options}
    sentence = f"3 x 4 patches of 16 x 16 px, 1 prefix token, read from: {read_from}, 2 layers in series"
    assert str(vi.probe(tower(**options), SIZE)) == sentence


def test_maps_are_those_of_the_modules_own_attention() -> None:
    reads = class_token(13)
    assert_read_as_by_hand(
        tower(), torch.rand(2, 3, *SIZE), attentions, reads, lambda output: output[1], before_the_view
    )


# --- the command line ---


@pytest.fixture
def small_clip(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a small model under the name of a large one."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-S-32", config)
    return redraw(open_clip.create_model("ViT-S-32"))


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": weights, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("kind", ["whole", "distributed", "tower"])
def test_checkpoints_of_whole_models_and_of_towers(kind: str, small_clip: Any, tmp_path: Path) -> None:
    weights = {
        "whole": small_clip.state_dict(),
        "distributed": {f"module.{key}": value for key, value in small_clip.state_dict().items()},
        "tower": small_clip.visual.state_dict(),
    }[kind]
    model = load_model("open_clip:ViT-S-32", saved(tmp_path / "weights.pt", weights))
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(images), small_clip.encode_image(images))
    prepared = model.pretrained_cfg
    assert prepared["input_size"] == (3, 64, 64)
    assert prepared["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_the_command_line_explains_a_tower(small_clip: Any, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "weights.pt", small_clip.state_dict())
    Image.new("RGB", (80, 70), (200, 30, 30)).save(tmp_path / "a.png")
    options = ["--model", "open_clip:ViT-S-32", "--checkpoint", checkpoint, "--method", "gmar", "--target", "3"]
    assert run("explain", tmp_path / "a.png", *options, "--out", tmp_path / "out") == 0
    assert list((tmp_path / "out").rglob("*.png"))


def test_tags_say_how_images_are_prepared(
    small_clip: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED,
        "ViT-S-32",
        {"mine": {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}},
    )
    checkpoint = saved(tmp_path / "weights.pt", small_clip.state_dict())
    for name in ("open_clip:ViT-S-32/mine", "open_clip:ViT-S-32"):
        prepared = load_model(name, checkpoint).pretrained_cfg
        assert prepared["mean"] == (0.5, 0.5, 0.5)
        assert (prepared["interpolation"], prepared["crop_mode"]) == ("bilinear", "squash")


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("ViT-B-31/openai", ValueError, r"got 'ViT-B-31'\. Did you mean ViT-B-32"),
        ("ViT-B-32", ValueError, r"open_clip:ViT-B-32/TAG with TAG one of openai.*got 'no tag'.*`checkpoint`"),
        ("ViT-B-32/laion2", ValueError, r"got 'laion2'\. Did you mean laion2b"),
        (
            "ViT-B-32/openai",
            OSError,
            r"^open_clip:ViT-B-32/openai could not be downloaded.*no connection$",
        ),
    ],
)
def test_failed_loading_prints_one_line(
    name: str, error: type[Exception], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection\nmore")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    with pytest.raises(error, match=match) as caught:
        load_model(f"open_clip:{name}")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name == "open_clip":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "open_clip")
    with pytest.raises(ImportError, match=r"open_clip_torch: pip install \"vit_interactions\[open_clip\]\""):
        load_model("open_clip:ViT-B-32/openai")
