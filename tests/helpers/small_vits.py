"""A small ViT, images for it, and a module that changes its features."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.families import tiny


def small_vit(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    """Build a ViT of 2 x 2 patches, two layers, two heads, in which every parameter matters."""
    model = tiny(name, **{"img_size": 32, "embed_dim": 12, **options})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def images(batch: int = 2, size: int = 32) -> Tensor:
    """Draw random images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


class Spoiled(nn.Module):
    """A module that applies a function to the features."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        """Store the function."""
        super().__init__()
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.spoil(x)
