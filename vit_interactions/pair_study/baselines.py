"""Values of pairs that a pair map must beat: chance, closeness, and products of first-order quantities."""

import torch
from torch import Tensor, nn

from vit_interactions.attention.observe import observe_gradients
from vit_interactions.explain import GenericAttention
from vit_interactions.explain.targets import select_target
from vit_interactions.functional.pair_effects import PairEffects
from vit_interactions.functional.pair_scores import pair_distances, pair_products, pair_values

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


def free_baselines(effects: PairEffects, grid: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """Compute the baselines that need no further passes.

    Args:
        effects: of the image.
        grid: (rows, cols) of the patches.
        seed: of the random values.

    Returns:
        Name -> (pairs,): |s_i s_j| of the measured first-order effects, which share their noise with the strength;
        minus the distance; and random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        FIRST_ORDER: effects.first_order,
        CLOSENESS: -pair_distances(effects.pairs, grid),
        RANDOM: torch.rand(len(effects.pairs), dtype=torch.float64, generator=generator),
    }


def model_baselines(model: nn.Module, inputs: Tensor, target: int, pairs: Tensor) -> dict[str, Tensor]:
    """Compute the baselines that run the model.

    Args:
        model: a ViT.
        inputs: (1, channels, height, width).
        target: the class.
        pairs: (pairs, 2).

    Returns:
        Name -> (pairs,): attention times gradient; mean attention; and the product of the values that generic attention
        gives to both patches.
    """
    saliency = GenericAttention(model).patch_map(inputs, target).flatten()
    attention, product = mean_attention(model, inputs, target)
    return {
        ATTENTION_GRADIENT: pair_values(product[0], pairs),
        ATTENTION: pair_values(attention[0], pairs),
        SALIENCY: pair_products(saliency, pairs),
    }


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
