"""timm's `test_vit` with sharp attention, and a checkpoint of it."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn


def sharp_vit(**options: Any) -> nn.Module:
    """Build `test_vit` with five classes and attention sharper than at initialization, so that maps differ."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5, **options)
    for block in model.blocks:
        block.attn.qkv.weight.data.mul_(10)
    return model.eval()


def save_sharp_vit(folder: Path) -> Path:
    """Write the weights of `sharp_vit` to a folder; return the file."""
    save_file(sharp_vit().state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"
