"""Load torchvision's Vision Transformers by name."""

import math
from typing import Any

import torchvision.models
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from vit_interactions.loading.models import strip_prefix


def load(name: str, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """Create a torchvision ViT by name, with its preprocessing in timm's format (`pretrained_cfg`).

    Args:
        name: one of `torchvision.models.list_models("vit_*")`.
        weights: a state dict that the caller loads, from which the number of classes and the image size are read;
            None: torchvision's pretrained weights.

    Raises:
        ValueError: an unknown name.
        OSError: the weights could not be downloaded.

    Example:
        >>> load("vit_b_61")
        Traceback (most recent call last):
        ValueError: `model` must be one of vit_b_16, vit_b_32, vit_h_14, vit_l_16, vit_l_32, got 'vit_b_61'.
    """
    names = torchvision.models.list_models(include="vit_*")
    if name not in names:
        raise ValueError(f"`model` must be one of {', '.join(names)}, got {name!r}.")
    offered = torchvision.models.get_model_weights(name)
    known = getattr(offered, "DEFAULT", None)
    model: Any = torchvision.models.get_model(
        name, weights=known if weights is None else None, **_options(weights or {})
    )
    transform = known.transforms() if known else None
    model.pretrained_cfg = {
        "input_size": (3, model.image_size, model.image_size),
        # timm rounds down the size before the crop.
        "crop_pct": transform.crop_size[0] / (transform.resize_size[0] + 0.5) if transform else 1.0,
        "interpolation": transform.interpolation.value if transform else "bilinear",
        "mean": tuple(transform.mean) if transform else IMAGENET_DEFAULT_MEAN,
        "std": tuple(transform.std) if transform else IMAGENET_DEFAULT_STD,
    }
    created: nn.Module = model
    return created


def _options(weights: dict[str, Tensor]) -> dict[str, int]:
    """Read the options of the model from a state dict; empty for other weights."""
    weights, _ = strip_prefix(weights, ["heads.head.weight", "encoder.pos_embedding", "conv_proj.weight"])
    head, positions = weights.get("heads.head.weight"), weights.get("encoder.pos_embedding")
    projection = weights.get("conv_proj.weight")
    options = {} if head is None or head.ndim == 0 else {"num_classes": head.shape[0]}
    if positions is not None and positions.ndim == 3 and projection is not None and projection.ndim == 4:
        options["image_size"] = math.isqrt(positions.shape[1] - 1) * projection.shape[-1]
    return options
