"""Models with known explanations: their score for class 1 depends on the red of one patch alone.

Channels of a token: 0 its mean red, 1 its mean green, 2 its mean blue, 3 the strength of its query (from the position
embedding), 4 the red gathered by attention. Nothing else is read. MLPs and norms do nothing.
"""

import math
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.helpers.families import tiny
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.probe import token_layout
from vit_interactions.metrics import Case

SIZE, PATCH = 64, (1, 2)

SHARE = 1 / 17  # uniform attention among 16 patches and the class token

# Sharpness of each head of each layer: all different, so that U is not 0.
SHARPNESS = ((2.0, 5.0), (5.0, 3.0))


def _empty(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    """Build a model with all parameters 0, tokens of 6 channels, 2 heads, and no norms."""
    model = timm.create_model(name, embed_dim=6, num_heads=2, num_classes=2, **options).eval()
    model.norm = model.fc_norm = nn.Identity()
    for block in model.blocks:
        block.norm1 = nn.Identity()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def planted_model() -> nn.Module:
    """Build one block with uniform attention whose head reads the mean red of the patches."""
    model = _empty(img_size=SIZE, depth=1)
    block = model.blocks[0]
    with torch.no_grad():
        model.patch_embed.proj.weight[0, 0] = 1 / 256
        block.attn.qkv.weight[12:] = torch.eye(6)
        block.attn.proj.weight.copy_(torch.eye(6))
        model.head.weight[1, 0] = 1.0
    return model


def painted(images: Tensor, patch: tuple[int, int], color: int, value: float = 1.0) -> Tensor:
    """Copy images, with one patch of 16 x 16 pixels black except for one color."""
    images, (row, col) = images.clone(), patch
    cell = images[..., 16 * row : 16 * row + 16, 16 * col : 16 * col + 16]
    cell.zero_()
    cell[:, color] = value
    return images


def planted_image() -> Tensor:
    """Return a black image with one red patch."""
    return painted(torch.zeros(1, 3, SIZE, SIZE), PATCH, 0)


def planted_map(value: float = SHARE) -> Tensor:
    """Return the map (1, 4, 4) that is 0 except at the red patch."""
    expected = torch.zeros(1, 4, 4)
    expected[0][PATCH] = value
    return expected


def looking_model(grid: tuple[int, int], looks_for: int, silent: tuple[int, int], **options: Any) -> nn.Module:
    """Build two blocks whose heads attend to a color, more or less sharply, and gather the red from there.

    Args:
        grid: (rows, cols) of patches of 16 x 16 pixels.
        looks_for: the color's channel.
        silent: (row, col) of the patch with a query of 0, which attends uniformly in every layer.
        options: of timm's `vit_tiny_patch16_224`.
    """
    rows, cols = grid
    model = _empty(img_size=(16 * rows, 16 * cols), depth=len(SHARPNESS), **options)
    asks = torch.linspace(0.8, 1.5, rows * cols)
    asks[silent[0] * cols + silent[1]] = 0.0
    with torch.no_grad():
        for color in range(3):
            model.patch_embed.proj.weight[color, color] = 1 / 256
        model.pos_embed[0, -rows * cols :, 3] = asks
        for token in (model.cls_token, getattr(model, "dist_token", None)):
            if token is not None:
                token[..., 3] = 1.0
        for block, sharpness in zip(model.blocks, SHARPNESS, strict=True):
            query, key, value = block.attn.qkv.weight.view(3, 2, 3, 6)
            for head, factor in enumerate(sharpness):
                query[head, 0, 3] = factor * 3**0.5
                key[head, 0, looks_for] = 1.0
                value[head, 0, 0] = 1.0
                block.attn.proj.weight[4, 3 * head] = 0.5
        if model.attn_pool is not None:
            # One head reads the patch's own red, the other the red gathered by attention.
            model.attn_pool.kv.weight[6, 0] = model.attn_pool.kv.weight[9, 4] = 1.0
            model.attn_pool.proj.weight[4, [0, 3]] = 1.0
        for head in (model.head, getattr(model, "head_dist", None)):
            if head is not None:
                head.weight[1, 4] = 1.0
    return model


GRID = (4, 4)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


STRENGTH = 4.0


def strong_model() -> nn.Module:
    """Build the planted model with logits [2 x the sum of the patches' blue, 4 x that of their red]."""
    model: Any = planted_model()
    with torch.no_grad():
        for color in range(3):
            model.patch_embed.proj.weight[color, color] = 1 / 256
        model.head.weight.zero_()
        model.head.weight[0, 2] = 17 * STRENGTH / 2
        model.head.weight[1, 0] = 17 * STRENGTH
    return model.double()


def planted_case(image: Tensor | None = None, **options: Any) -> Case:
    image = planted_image() if image is None else image
    inside = torch.zeros(GRID, dtype=torch.bool)
    inside[PATCH] = True
    given: dict[str, Any] = {
        "model": strong_model(),
        "inputs": image.double(),
        "target": 1,
        "layout": TokenLayout(prefix=1, rows=4, cols=4, readout="token", extent=(64, 64)),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "inside": inside,
    }
    return Case(**{**given, **options})


def tiny_case(**options: Any) -> Case:
    """Build a case of a random float64 model and a random image of 48 x 96 pixels and 3 x 6 patches."""
    model = tiny("vit_tiny_patch16_224", img_size=(48, 96)).double()
    inputs = torch.randn(1, 3, 48, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given: dict[str, Any] = {
        "model": model,
        "inputs": inputs,
        "target": 2,
        "layout": token_layout(model, (48, 96)),
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        "output": "softmax",  # if not given, a further forward pass would infer it
    }
    return Case(**{**given, **options})


def random_map(grid: tuple[int, int], seed: int) -> Tensor:
    return torch.rand(grid, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ask_plainly(case: Case, image: Tensor) -> float:
    with torch.no_grad():
        return float(case.model(image.unsqueeze(0)).softmax(1)[0, case.target])


def count_images(model: nn.Module) -> list[int]:
    """Return a list that collects the batch sizes of the model's forward passes from now on."""
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    return sizes


def guessing(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
    return torch.rand(len(inputs), *GRID, dtype=torch.float64)


def box(rows: slice, cols: slice, grid: tuple[int, int] = (4, 4)) -> Tensor:
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[rows, cols] = True
    return inside


INSIDE = box(slice(1, 3), slice(2, 4))


def slow_spearman(first: Tensor, second: Tensor) -> float:
    ranks = []
    for values in (first.flatten().tolist(), second.flatten().tolist()):
        ranks.append(
            [sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]
        )
    mean = (len(ranks[0]) - 1) / 2
    product = sum((a - mean) * (b - mean) for a, b in zip(*ranks, strict=True))
    one, other = (sum((a - mean) ** 2 for a in rank) for rank in ranks)
    return product / (one * other) ** 0.5
