"""Count the patch interactions of a classifier while it classifies."""

import torch
from torch import Tensor, nn

from vit_interactions.attention.probe import token_layout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.loading.models import FAMILIES
from vit_interactions.models.adaptive_window import AdaptiveWindowViT
from vit_interactions.models.record_windows import record_windows
from vit_interactions.models.winft import WindowFreeAttention

# Modules whose models have attention among all patches.
GLOBAL = (*FAMILIES, "winft", "adaptive_window")


def classify_and_count(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Classify images, and count the patch interactions per image, whose mean is E_O.

    Args:
        model: a window-free transformer (pairs in the windows, averaged over layers), an adaptive-window ViT with a
            teacher (pairs in the images' fields), or any other classifier.
        images: (batch, channels, height, width).

    Returns:
        Logits, and counts (batch,): N² for a plain ViT with N patches, None for a model that is not a ViT.

    Example:
        >>> import timm
        >>> classify_and_count(timm.create_model("test_vit").eval(), torch.zeros(2, 3, 160, 160))[1]
        tensor([10000., 10000.])
    """
    inner = unwrap(model)
    if isinstance(inner, AdaptiveWindowViT):
        field = inner.field(images)
        return model(images, field), field.operations.float()
    if any(isinstance(layer, WindowFreeAttention) for layer in inner.modules()):
        with record_windows(inner) as record:
            logits: Tensor = model(images)
        return logits, record.operations
    pairs = count_pairs(inner, images)
    counts = None if pairs is None else torch.full(images.shape[:1], float(pairs), device=images.device)
    return model(images), counts


def count_pairs(model: nn.Module, images: Tensor) -> int | None:
    """Return N², the number of patch pairs per image; None for a model without attention among all patches."""
    inner = unwrap(model)
    if type(inner).__module__.rpartition(".")[2] not in GLOBAL:
        return None
    height, width = images.shape[-2:]
    # The teacher runs without gradients, which the probe would reject as a cut.
    if isinstance(inner, AdaptiveWindowViT):
        rows, cols = inner.patch_embed.dynamic_feat_size((height, width))
        return int(rows * cols) ** 2
    return token_layout(inner, (height, width)).patches ** 2
