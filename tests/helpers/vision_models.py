"""Small models with random weights, of families without attention among all patches."""

from typing import Any

import timm
import torch
from torch import nn

NARROW: dict[str, Any] = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 2)}
# Family -> a timm model and its options. All take images of 64 x 64 pixels.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet": ("test_resnet", {}),
    "ConvNeXt": ("convnext_atto", {}),
    "Swin": ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, **NARROW}),
    "Swin v2": ("swinv2_tiny_window8_256", {"img_size": 64, "window_size": 4, **NARROW}),
    "Hiera": ("hiera_tiny_224", {"img_size": 64, "embed_dim": 16, "stages": (1, 1, 2, 1)}),
    "MViT v2": ("mvitv2_tiny", {"img_size": 64}),
    "PVT v2": ("pvt_v2_b0", {}),
    "MaxViT": ("test_maxvit", {"img_size": 64}),
    "CoAtNet": ("coatnet_pico_rw_224", {"img_size": 64}),
    "CaiT": ("cait_xxs24_224", {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2}),
    "LeViT": ("levit_128s", {"img_size": 64}),
    "EfficientViT (MIT)": ("efficientvit_b0", {}),
    "EfficientViT (MSRA)": ("efficientvit_m0", {"img_size": 64}),
    "MobileViT": ("mobilevit_xxs", {}),
    "MobileViT v2": ("mobilevitv2_050", {}),
    "TinyViT": ("tiny_vit_5m_224", {}),
    "XCiT": ("xcit_nano_12_p16_224", {"img_size": 64, "depth": 2, "use_pos_embed": False}),
    "SAM": (
        "samvit_base_patch16",
        {
            "img_size": 64,
            "embed_dim": 24,
            "depth": 2,
            "num_heads": 2,
            "window_size": 3,
            "global_attn_indexes": (1,),
            "neck_chans": 0,
        },
    ),
}
ADDED = ("bias", "cls_token", "dist_token", "pos_embed", "pos_embed_win", "running_mean")


def vision_model(family: str) -> nn.Module:
    """Build a model; weights that start at zero get a random value, so that its output depends on all of it."""
    name, options = MODELS[family]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("weight") and not parameter.any():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def zero_added(model: nn.Module) -> nn.Module:
    """Zero all that is added and does not come from the image; it would keep a share of the relevance."""
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if key.endswith(ADDED) and "rel_pos" not in key:
                tensor.zero_()
    return model
