"""Baseline images by hand."""

import math

import pytest
import torch

from vit_interactions.metrics import deletion
from vit_interactions.metrics.baseline import baseline_image


def test_baselines() -> None:
    images = torch.rand(2, 3, 56, 40, dtype=torch.float64)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
    normalized = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    black = baseline_image(normalized, "zero", mean, std)
    raw = black * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close(raw, torch.zeros_like(raw), atol=1e-7, rtol=0)
    assert not baseline_image(normalized, "mean", mean, std).any()
    # One pixel in the middle by the definition of the Gaussian, scaled to the shorter side.
    blurred = baseline_image(normalized, "blur", mean, std)
    sigma = 5 * 40 / 224
    weights = [[math.exp(-(dx * dx + dy * dy) / (2 * sigma**2)) for dx in (-1, 0, 1)] for dy in (-1, 0, 1)]
    total = sum(map(sum, weights))
    expected = sum(
        weights[dy + 1][dx + 1] / total * normalized[1, 2, 20 + dy, 30 + dx]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    )
    assert float(blurred[1, 2, 20, 30]) == pytest.approx(float(expected), abs=1e-7)
    with pytest.raises(ValueError, match="`baseline` must be one of 'blur', 'mean', 'zero', got 'gray'"):
        deletion("gray")
