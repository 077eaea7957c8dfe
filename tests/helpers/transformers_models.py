"""Small transformers models with random weights."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn

from tests.helpers.families import Family
from vit_interactions import (
    EXPLAINERS,
    Explainer,
)

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}

IMAGE: dict[str, Any] = {**SMALL, "image_size": 64, "patch_size": 16, "num_labels": 5}


def sharpen(model: nn.Module) -> nn.Module:
    """Redraw the weights of the attention and the classifier, so that attention is far from uniform."""
    generator = torch.Generator().manual_seed(0)
    widths = {"q_proj.weight": 1.5, "k_proj.weight": 1.5, "in_proj_weight": 1.5, "classifier.weight": 3.0}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            width = next((width for end, width in widths.items() if name.endswith(end)), None)
            if width is not None:
                parameter.copy_(noise * width / parameter.shape[-1] ** 0.5)
            elif "lambda" in name:
                parameter.fill_(1.0)
            elif parameter.ndim > 1:
                parameter.copy_(noise * (1.0 if name.endswith("bias_table") else 0.3))
    return model.eval()


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model with the same weights every time, without changing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sharpen(build())


TOWER: dict[str, Any] = {**SMALL, "image_size": 64, "patch_size": 16}


def clip_config(kind: Any = hf.CLIPConfig) -> Any:
    """Return the configuration of a model with two towers."""
    text = {**SMALL, "vocab_size": 50, "projection_dim": 16, "bos_token_id": 0, "eos_token_id": 1}
    options = {"projection_dim": 16} if kind is hf.CLIPConfig else {}
    return kind(text_config=text, vision_config={**TOWER, "projection_dim": 16}, num_labels=5, **options)


class FirstArgument(nn.Module):
    """CLIP's two towers as a model of images."""

    def __init__(self) -> None:
        """Build both towers."""
        super().__init__()
        self.clip = hf.CLIPModel(clip_config())

    def forward(self, image: Tensor) -> Tensor:
        """Embed the image."""
        return self.clip.get_image_features(image).pooler_output


def family(name: str, build: Callable[[], nn.Module], prefix: int, readout: str, **known: Any) -> Family:
    """Return a row of the table, by default with 4 x 4 patches of images of 64 x 64 pixels."""
    known = {"size": (64, 64), "grid": (4, 4), **known}
    return Family(name, lambda: seeded(build), prefix=prefix, readout=readout, **known)


BEIT = {**IMAGE, "use_relative_position_bias": True}

DINO: dict[str, Any] = {**SMALL, "patch_size": 14, "image_size": 56, "num_labels": 5, "mlp_ratio": 2}

ROWS = (
    family("vit", lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)), 1, "token"),
    family("vit_features", lambda: hf.ViTModel(hf.ViTConfig(**IMAGE)), 1, "token"),
    family("deit", lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**IMAGE)), 2, "token"),
    family("distilled", lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**IMAGE)), 2, "distilled"),
    family("beit", lambda: hf.BeitForImageClassification(hf.BeitConfig(**BEIT)), 1, "avg"),
    family("beit_token", lambda: hf.BeitModel(hf.BeitConfig(**BEIT, use_mean_pooling=False)), 1, "token"),
    family(
        "dinov2",
        lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO)),
        1,
        "token_avg",
        size=(42, 72),
        grid=(3, 5),
        extent=(42, 70),
    ),
    family(
        "dinov2_registers",
        lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**DINO, num_register_tokens=3)),
        4,
        "token",
        size=(56, 56),
    ),
    family(
        "dinov2_registers_classifier",
        lambda: hf.Dinov2WithRegistersForImageClassification(hf.Dinov2WithRegistersConfig(**DINO)),
        5,
        "token_avg",
        size=(56, 56),
    ),
    family(
        "dinov3",
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**TOWER, num_register_tokens=4)),
        5,
        "token",
        size=(48, 80),
        grid=(3, 5),
    ),
    family("clip", lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**TOWER)), 1, "token"),
    family("clip_projected", lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**TOWER)), 1, "token"),
    family("clip_classifier", lambda: hf.CLIPForImageClassification(clip_config()), 1, "avg"),
    family("clip_wrapped", FirstArgument, 1, "token"),
    family("siglip", lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**TOWER)), 0, "map"),
    family(
        "siglip_headless",
        lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**TOWER, vision_use_head=False)),
        0,
        "avg",
    ),
    family("siglip_classifier", lambda: hf.SiglipForImageClassification(clip_config(hf.SiglipConfig)), 0, "avg"),
)

TABLE = {row.name: row for row in ROWS}


def explainer_of(name: str, model: nn.Module) -> Explainer:
    """Create an explainer for a model of two layers; some methods start at a later layer by default."""
    method = EXPLAINERS[name]
    return method(model, **({"start": 1} if "start" in inspect.signature(method).parameters else {}))


def smooth_image(path: Path, size: tuple[int, int] = (150, 90)) -> Path:
    """Save a smooth image, for which two ways of resizing agree; return its path."""
    rows, cols = np.mgrid[: size[1], : size[0]]
    channels = [127 + 120 * np.sin(rows / 17 + shift) * np.cos(cols / 23) for shift in range(3)]
    Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(path)
    return path
