"""Exported models, loaded by timm."""

from pathlib import Path

import timm
import torch

from tests.helpers.tiny_images import (
    SIZE,
)
from vit_interactions.training.export import export_model


def test_exported_model_is_loaded_by_timm(tmp_path: Path) -> None:
    model = timm.create_model("test_winft", num_classes=3, img_size=SIZE, window_fill="-inf").eval()
    config = {**timm.data.resolve_data_config({"img_size": SIZE}, model=model), "mean": (0.1, 0.2, 0.3)}
    for _ in range(2):  # the second export replaces the first
        arguments = {"img_size": SIZE, "window_fill": "-inf"}
        export_model(model, tmp_path, config=config, arguments=arguments, class_names=("a", "b", "c"))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(loaded(images), model(images))
    assert loaded.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert tuple(timm.data.resolve_data_config({}, model=loaded)["input_size"]) == (3, SIZE, SIZE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
