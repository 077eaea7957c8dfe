"""The two small bundled models: a ViT and a WinfT of the same shape, trained on Imagenette.

Their 14 x 14 patches of 8 x 8 pixels form the same grid as in a ViT/16 at 224 pixels, at a seventh of ViT-Ti/16's cost.
"""

from pathlib import Path
from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, _cfg
from torch import nn

from vit_interactions.models.build import build_vit
from vit_interactions.models.winft import WindowFreeTransformer

WEIGHTS = Path(__file__).parent / "weights"

# Folders and names of Imagenette's classes, in order.
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def _mini_cfg(name: str) -> dict[str, Any]:
    cfg: dict[str, Any] = _cfg(
        file=str(WEIGHTS / f"{name}.safetensors"),
        input_size=(3, 112, 112),
        crop_pct=0.95,
        num_classes=10,
        label_names=tuple(CLASSES),
        label_descriptions=CLASSES,
    )
    return cfg


default_cfgs = generate_default_cfgs(
    {
        "vit_mini_patch8_112.imagenette": _mini_cfg("vit_mini_patch8_112"),
        "winft_mini_patch8_112.imagenette": _mini_cfg("winft_mini_patch8_112"),
    }
)

_MINI = {"img_size": 112, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 6}


@register_model
def vit_mini_patch8_112(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT with 2.7 million parameters at 112 x 112; the pretrained weights are in the package."""
    return build_vit(VisionTransformer, "vit_mini_patch8_112", pretrained, _MINI, kwargs)


@register_model
def winft_mini_patch8_112(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WinfT of the same shape as the ViT; the pretrained weights are in the package."""
    return build_vit(WindowFreeTransformer, "winft_mini_patch8_112", pretrained, _MINI, kwargs)
