"""A model whose explanation is known: its score for class 1 is the mean red of the patches over all tokens."""

import timm
import torch
from torch import Tensor, nn

SIZE, PATCH = 64, (1, 2)
SHARE = 1 / 17  # uniform attention among 16 patches and the class token


def planted_model() -> nn.Module:
    """One block of identities: each patch's token carries its mean red, attention is uniform, the head reads it."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIZE, depth=1, embed_dim=6, num_heads=2, num_classes=2
    ).eval()
    block = model.blocks[0]
    block.norm1, model.norm = nn.Identity(), nn.Identity()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight[0, 0] = 1 / 256
        block.attn.qkv.weight[12:] = torch.eye(6)
        block.attn.proj.weight.copy_(torch.eye(6))
        model.head.weight[1, 0] = 1.0
    return model


def planted_image() -> Tensor:
    """Black except one red patch."""
    image = torch.zeros(1, 3, SIZE, SIZE)
    row, col = PATCH
    image[:, 0, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 1.0
    return image


def planted_map(value: float = SHARE) -> Tensor:
    """The map (1, 4, 4) that is 0 but at the red patch."""
    expected = torch.zeros(1, 4, 4)
    expected[0][PATCH] = value
    return expected
