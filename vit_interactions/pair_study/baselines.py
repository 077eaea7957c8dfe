"""Pair maps that a method must beat: chance, closeness, mean attention, and products of first-order quantities."""

import torch
from torch import Tensor, nn

from vit_interactions.attention.observe import observe_gradients
from vit_interactions.explain import GenericAttention
from vit_interactions.explain.targets import select_target
from vit_interactions.functional.pair_scores import pair_distances, pair_products

RANDOM, CLOSENESS, FIRST_ORDER = "random", "closeness", "first_order_product"
SALIENCY, ATTENTION_GRADIENT, ATTENTION = "saliency_product", "attention_x_gradient", "mean_attention"

# Forward and backward passes per image; the last three need none beyond those of the effects.
PASSES = {
    ATTENTION_GRADIENT: (1, 1),
    ATTENTION: (1, 0),
    SALIENCY: (1, 1),
    FIRST_ORDER: (0, 0),
    CLOSENESS: (0, 0),
    RANDOM: (0, 0),
}


def free_baselines(grid: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """Compute the pair maps that need no model.

    Args:
        grid: (rows, cols) of the patches.
        seed: of the random map.

    Returns:
        Name -> (patches, patches) float64: minus the distance, and random numbers.
    """
    count, generator = grid[0] * grid[1], torch.Generator().manual_seed(seed)
    return {
        CLOSENESS: -pair_distances(every_pair(count), grid).view(count, count),
        RANDOM: torch.rand(count, count, dtype=torch.float64, generator=generator),
    }


def model_baselines(model: nn.Module, inputs: Tensor, target: int) -> dict[str, Tensor]:
    """Compute the pair maps that run the model.

    Args:
        model: a ViT.
        inputs: (1, channels, height, width).
        target: the class.

    Returns:
        Name -> (patches, patches) ≥ 0: attention times gradient; mean attention; and the product of the values that
        generic attention gives to both patches.
    """
    saliency = GenericAttention(model).patch_map(inputs, target).flatten()
    attention, product = mean_attention(model, inputs, target)
    count = len(saliency)
    return {
        ATTENTION_GRADIENT: product[0],
        ATTENTION: attention[0],
        SALIENCY: pair_products(saliency, every_pair(count)).view(count, count),
    }


def every_pair(count: int) -> Tensor:
    """Return all pairs of patches in row-major order, (patches², 2)."""
    patches = torch.arange(count)
    return torch.cartesian_prod(patches, patches)


def mean_attention(model: nn.Module, inputs: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Compute the means over layers and heads of A and of |A * G| among patches, with G the class's gradient at A.

    Args:
        model: a ViT.
        inputs: (batch, channels, height, width).
        target: the class.

    Returns:
        Mean attention, and mean attention times gradient: (batch, patches, patches) ≥ 0 each, at least float32.
    """
    seen = observe_gradients(model, inputs, None, lambda output: select_target(output, target, len(inputs)))
    prefix, parts = seen.layout.prefix, list[tuple[Tensor, Tensor]]()
    for layer in seen.layers():
        attention = layer.attention()
        both = attention.mean(1), (attention * layer.gradient()).abs().mean(1)
        parts.append((both[0][:, prefix:, prefix:], both[1][:, prefix:, prefix:]))
    attention, product = (torch.stack(layers).mean(0) for layers in zip(*parts, strict=True))
    return attention, product
