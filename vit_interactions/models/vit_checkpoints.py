"""timm's ViT checkpoints, for models with exactly the same parameters as a ViT."""

from collections.abc import Iterable
from typing import Any

from timm.models import PretrainedCfg
from timm.models.vision_transformer import default_cfgs


def vit_checkpoints(names: Iterable[str], own: str) -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Return the configurations of timm's ViT checkpoints for other models, with the same tags.

    Args:
        names: names of the models.
        own: part of these names that replaces "vit".

    Returns:
        Name and tag -> timm's configuration with the ViT's weights, for `timm.models.generate_default_cfgs`.

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
