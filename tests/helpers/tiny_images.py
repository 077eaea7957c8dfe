"""A folder of small images that a small model learns in a few steps, and settings for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from vit_interactions.training.settings import TrainingSettings

SIZE = 64  # pixels: 4 x 4 patches
CLASSES = 3
TRAIN, VAL = 9, 5  # images per class


def make_images(root: Path) -> Path:
    """Write images of noise whose channel of the class is saturated."""
    noise = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(CLASSES):
            folder = root / split / f"class{number}"
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = noise.integers(0, 255, (40, 48, 3), dtype=np.uint8)
                pixels[..., number] = 255
                Image.fromarray(pixels).save(folder / f"{image}.png")
    return root


def save_teacher_weights(path: Path) -> Path:
    """Write the weights of a ViT that stands in for a trained one."""
    torch.manual_seed(1)
    model = timm.create_model("test_vit", img_size=SIZE, num_classes=5)
    # Sharper than at the start of training, so that its windows differ.
    for block in model.blocks:
        block.attn.qkv.weight.data *= 4
    save_file(model.state_dict(), path)
    return path


def tiny_settings(data: Path, **changes: Any) -> TrainingSettings:
    """Return settings for a few training steps."""
    common: dict[str, Any] = {
        "model": "test_winft",
        "img_size": SIZE,
        "batch_size": 8,
        "epochs": 2,
        "workers": 0,
        "lr": 0.05,
        "log_every": 2,
    }
    return TrainingSettings(data=data, **{**common, **changes})


def everything(teacher: Path) -> dict[str, Any]:
    """Return settings that use every part that draws random numbers or keeps a state."""
    return {
        "accumulate": 2,
        "ema": 0.9,
        "mixup": 0.2,
        "cutmix": 1.0,
        "random_erase": 0.5,
        "drop_path": 0.2,
        "auto_augment": "rand-m9-mstd0.5",
        "smoothing": 0.1,
        "clip_grad": 1.0,
        "warmup_steps": 2,
        "window_targets": "online",
        "teacher": "test_vit",
        "teacher_checkpoint": teacher,
        "alpha": 0.05,
        "epochs": 3,
        "checkpoint_every": 2,
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: tensors this small only wait for each other in more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
