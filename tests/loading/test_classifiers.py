"""Classifiers created with weights of another input size."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from tests.helpers.tiny_images import (
    SIZE,
)
from vit_interactions.loading.classifiers import create_classifier, load_classifier


def test_weights_of_another_input_size_are_resized_as_in_timm(tmp_path: Path) -> None:
    small = timm.create_model("test_vit", num_classes=3, img_size=SIZE)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    large, notes = create_classifier("test_winft", 3, checkpoint=tmp_path / "small.safetensors", img_size=96)
    assert notes == []
    resized = timm.layers.resample_abs_pos_embed(small.pos_embed, new_size=[6, 6])
    torch.testing.assert_close(large.pos_embed, resized)  # type: ignore[arg-type]
    trained = load_classifier("test_winft", tmp_path / "small.safetensors", img_size=96)
    assert torch.equal(trained.pos_embed, large.pos_embed)  # type: ignore[arg-type]
    assert not trained.training
