"""Small window-free transformers."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.helpers.families import sharpen
from vit_interactions.functional.window_free import WINDOW_FILLS

every_fill = pytest.mark.parametrize("fill", WINDOW_FILLS)


def small(name: str = "winft_tiny_patch16_224", **options: Any) -> Any:
    """Return a model with two layers, sharp attention and 4 x 4 patches, always with the same weights."""
    torch.manual_seed(0)
    shape = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
    return sharpen(timm.create_model(name, **{**shape, **options})).eval()


def images(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
