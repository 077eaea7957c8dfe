"""Small torchvision models with random weights."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

TINY: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 48, "num_classes": 5}


def vit(**options: Any) -> VisionTransformer:
    """Build a ViT of 4 x 4 patches with sharp attention and the same weights every time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = VisionTransformer(**{"image_size": 64, "patch_size": 16, **TINY, **options}).eval()
        for name, parameter in model.named_parameters():
            if name.endswith(("in_proj_weight", "head.weight")):
                parameter.normal_(std=0.4)
            elif name.endswith("in_proj_bias"):
                parameter.normal_()
    return model


def replayed(
    model: nn.Module, inputs: Tensor, weights: list[Tensor], states: list[Tensor] | None = None
) -> Tensor:
    """Run the ViT with attention written out, softmax(q k / sqrt(d)) v; note it, and the tokens after each block."""
    vision: Any = model
    x = vision._process_input(inputs)
    x = torch.cat([vision.class_token.expand(len(x), -1, -1), x], 1) + vision.encoder.pos_embedding
    for block in vision.encoder.layers:
        attend, normed = block.self_attention, block.ln_1(x)
        joint = F.linear(normed, attend.in_proj_weight, attend.in_proj_bias)
        query, key, value = joint.reshape(*joint.shape[:2], 3, 2, 16).permute(2, 0, 3, 1, 4)
        weights.append((query @ key.mT / 4).softmax(-1))
        x = x + attend.out_proj((weights[-1] @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
        if states is not None:
            states.append(x)
    return vision.heads(vision.encoder.ln(x)[:, 0])
