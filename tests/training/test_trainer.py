"""The schedule of the learning rate, and mixed images."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data import Mixup
from torch import nn

from tests.helpers.tiny_images import (
    tiny_settings,
)
from vit_interactions.training.trainer import _mix, create_schedule

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def test_learning_rate_schedule(image_folder: Path) -> None:
    def rates(**changes: Any) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = create_schedule(optimizer, tiny_settings(image_folder, lr=0.1, **changes), 100)
        found = []
        for step in range(100):
            found.append(optimizer.param_groups[0]["lr"])
            schedule.step_update(step + 1)
        return found

    cosine = rates(warmup_steps=20, min_lr=0.01)
    for step in range(20):
        assert cosine[step] == pytest.approx(1e-5 + (0.1 - 1e-5) * step / 20)
    for step in range(20, 100):
        share = (step - 20) / 80
        assert cosine[step] == pytest.approx(0.01 + 0.09 * (1 + math.cos(math.pi * share)) / 2)
    assert rates(sched="linear")[25] == pytest.approx(0.075)
    assert rates(sched="constant") == [0.1] * 100
    with pytest.raises(ValueError, match="`warmup_steps` must be less than the total of 100 steps, got 100"):
        rates(warmup_steps=100)


def test_image_without_partner_is_not_mixed() -> None:
    mixup = Mixup(1.0, num_classes=4, label_smoothing=0.1)
    images, classes = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 3])
    mixed, shares = _mix(mixup, images.clone(), classes)
    assert torch.equal(mixed[2], images[2])
    torch.testing.assert_close(shares[2], torch.tensor([0.025, 0.025, 0.025, 0.925]))
    assert shares.shape == (3, 4)
    assert not torch.equal(mixed[0], images[0])
    alone, share = _mix(mixup, images[:1].clone(), classes[:1])
    assert torch.equal(alone, images[:1])
    torch.testing.assert_close(share[0], torch.tensor([0.925, 0.025, 0.025, 0.025]))
