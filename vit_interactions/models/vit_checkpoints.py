"""Which of timm's ViT checkpoints a model with exactly ViT's parameters can start from: all of its shape."""

from collections.abc import Iterable
from typing import Any

from timm.models import PretrainedCfg
from timm.models.vision_transformer import default_cfgs


def vit_checkpoints(names: Iterable[str], own: str) -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Offer the checkpoints of timm's ViTs under the same tags, for `timm.models.generate_default_cfgs`.

    Args:
        names: of the models.
        own: what stands in them in place of "vit".

    Returns:
        Name and tag -> timm's configuration, whose weights are still the ViT's.

    Example:
        >>> vit_checkpoints(["winft_base_patch16_224"], "winft")["winft_base_patch16_224.augreg_in21k"]["hf_hub_id"]
        'timm/vit_base_patch16_224.augreg_in21k'
    """
    known: Any = default_cfgs
    twins = {name: name.replace(own, "vit") for name in names}
    return {
        f"{name}.{tag}": {**cfg.to_dict(), "hf_hub_id": f"timm/{twin}.{tag}", "architecture": None}
        for name, twin in twins.items()
        for tag, cfg in known[twin].cfgs.items()
        if cfg.has_weights
    }
