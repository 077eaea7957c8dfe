"""Settings: values out of range, and settings that exclude each other."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.tiny_images import (
    tiny_settings,
)
from vit_interactions.training.settings import MAY_CHANGE, TrainingSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "`model` must be given"),
        ({"batch_size": 0}, "`batch_size` must be >= 1, got 0"),
        ({"lr": 0.0}, "`lr` must be finite and > 0, got 0.0"),
        ({"lr": math.nan}, "`lr` must be finite and > 0"),
        ({"momentum": 1.5}, r"`momentum` must lie in \[0, 1\], got 1.5"),
        ({"sched": "cosinus"}, "`sched` must be one of 'cosine', 'linear', 'constant', got 'cosinus'"),
        ({"window_fill": "inf"}, "`window_fill` must be one of 'zero', '-inf', got 'inf'"),
        ({"window_targets": "online"}, "`window_targets` online must come with a `teacher`"),
        ({"window_targets": "cached"}, "`window_targets` cached and `window_store` must come together"),
        ({"window_store": Path("s")}, "`window_targets` cached and `window_store` must come together"),
        (
            {"window_targets": "cached", "window_store": Path("s"), "mixup": 0.5},
            "`window_targets` must be online or none with `mixup` or `cutmix`, got cached",
        ),
        (
            {"teacher_checkpoint": Path("t")},
            "`teacher_checkpoint` must come with the name of its model as `teacher`",
        ),
        (
            {"pretrained": True, "initial_checkpoint": Path("s")},
            "Only one of `pretrained` and `initial_checkpoint` must be given",
        ),
        ({"steps": 5, "warmup_steps": 5}, "`warmup_steps` must be less than `steps`, 5, got 5"),
    ],
)
def test_invalid_settings_raise(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_settings(Path("x"), **changes)


def test_settings_that_may_change_on_resume_exist() -> None:
    assert {field.name for field in dataclasses.fields(TrainingSettings)} > MAY_CHANGE
