"""Fixtures for tests of explainers: a small ViT in float64, and images for it."""

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import FAMILIES


@pytest.fixture
def model() -> nn.Module:
    return FAMILIES["vit"].build().double().eval()


@pytest.fixture
def images(model: nn.Module) -> Tensor:
    return torch.randn(2, 3, *FAMILIES["vit"].size, dtype=torch.float64)
