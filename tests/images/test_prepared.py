"""Preprocessing of models, and the transforms they need."""

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from vit_interactions.figures import prepare, preprocessing


def test_prepare_matches_timm():
    model = timm.create_model("test_vit")
    image = Image.effect_noise((230, 170), 60).convert("RGB")
    config = timm.data.resolve_model_data_config(model)
    expected = timm.data.create_transform(**config, is_training=False)(image)
    assert torch.equal(prepare(image, model).input, expected)
    assert torch.equal(prepare(image, nn.DataParallel(model)).input, expected)
    assert torch.equal(prepare(image, nn.Sequential(model)).input, expected)


def test_prepare_uses_the_img_size_of_the_model():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 160), depth=1)
    assert prepare(Image.new("RGB", (300, 200)), model).input.shape == (3, 64, 160)


def test_model_without_preprocessing_needs_a_transform():
    with pytest.raises(
        ValueError, match=r"`model` must have timm's `pretrained_cfg`.*got Linear without one.*`transform`"
    ):
        preprocessing(nn.Linear(1, 1))
    given = transforms.Compose([transforms.Resize((4, 6)), transforms.ToTensor()])
    assert prepare(Image.new("L", (12, 8)), nn.Linear(1, 1), given).input.shape == (3, 4, 6)
