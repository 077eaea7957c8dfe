"""transformers' Vision Transformers: where their patches are and what their answer is read from.

Tested with transformers 5. The configuration of the vision tower says how many tokens there are; what is read from
them is decided by the class with the head. The reading is that of transformers' own `forward`.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vit_interactions.attention import TokenLayout, UnsupportedModelError
from vit_interactions.attention.layout import Readout

CLASS_TOKEN = 1
# Towers by the `model_type` of their configuration: tokens before the first patch, registers aside.
PREFIX = {
    "vit": CLASS_TOKEN,
    "deit": CLASS_TOKEN + 1,
    "beit": CLASS_TOKEN,
    "dinov2": CLASS_TOKEN,
    "dinov2_with_registers": CLASS_TOKEN,
    "dinov3_vit": CLASS_TOKEN,
    "clip_vision_model": CLASS_TOKEN,
    "siglip_vision_model": 0,
}
# Towers whose positions fit images of any size; the others are called for one size unless told to interpolate.
ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit")
# Heads that read something else than the tower's own pooling does.
HEADS: dict[str, Readout] = {
    "DeiTForImageClassificationWithTeacher": "distilled",
    "CLIPForImageClassification": "avg",
    "SiglipForImageClassification": "avg",
    "Dinov2ForImageClassification": "token_avg",
    "Dinov2WithRegistersForImageClassification": "token_avg",
}


def token_layout(model: nn.Module, image_size: tuple[int, int]) -> TokenLayout:
    """Read the layout of the one vision tower of transformers in a model.

    Given directly, a model of transformers will be called with images only; a module of your own around it may do
    more, so its size and first input are not checked.

    Args:
        model: a model of transformers with a ViT as its vision tower, or a module with one inside.
        image_size: (height, width) of the input in pixels.

    Raises:
        UnsupportedModelError: no vision tower of a known type, or several.
        ValueError: a model that does not take images first, or not of this size.

    Example:
        >>> from transformers import DINOv3ViTConfig, DINOv3ViTModel
        >>> config = DINOv3ViTConfig(num_hidden_layers=1, hidden_size=64, patch_size=16, num_register_tokens=4)
        >>> token_layout(DINOv3ViTModel(config), (48, 80))
        TokenLayout(prefix=5, rows=3, cols=5, readout='token', extent=(48, 80), pool_prefix=False)
    """
    tower = _tower(model)
    config: Any = tower.config
    patch = _pair(config.patch_size)
    if isinstance(model, PreTrainedModel):
        _check_call(model, config, image_size)
    rows, cols = image_size[0] // patch[0], image_size[1] // patch[1]
    if rows * cols == 0:
        raise ValueError(
            f"`image_size` must be at least one patch of {patch[0]} x {patch[1]} pixels, but got {image_size[0]} x "
            f"{image_size[1]}."
        )
    return TokenLayout(
        prefix=PREFIX[config.model_type] + getattr(config, "num_register_tokens", 0),
        rows=rows,
        cols=cols,
        readout=_readout(model, config),
        extent=(rows * patch[0], cols * patch[1]),
    )


def _tower(model: nn.Module) -> PreTrainedModel:
    """Return the innermost model of the one known type; heads and towers share the type of their configuration."""
    inside = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    known = [module for module in inside if module.config.model_type in PREFIX]
    towers = [module for module in known if not any(other in known for other in list(module.modules())[1:])]
    if len(towers) == 1:
        return towers[0]
    types = ", ".join(sorted({module.config.model_type for module in (known or inside)}))
    raise UnsupportedModelError(
        f"{type(model).__name__} contains {len(towers)} vision towers of transformers that can be read, where one "
        f"was expected (model_type {types}). Give a model with one of {', '.join(PREFIX)}."
    )


def _check_call(model: PreTrainedModel, config: Any, image_size: tuple[int, int]) -> None:
    name = type(model).__name__
    if model.main_input_name != "pixel_values":
        raise ValueError(
            f"{name} takes {model.main_input_name} first, where an image is given. Explain its vision tower "
            "(`model.vision_model`), or a module of your own whose `forward` takes the image, as "
            "`model.get_image_features` does; a similarity to a text is a function as `target`."
        )
    built_for = _pair(config.image_size)
    if config.model_type not in ANY_SIZE and image_size != built_for:
        raise ValueError(
            f"{name} takes images of {built_for[0]} x {built_for[1]} pixels, but got {image_size[0]} x "
            f"{image_size[1]}. Resize the image, or give a module of your own that calls the model with "
            "`interpolate_pos_encoding=True`."
        )


def _readout(model: nn.Module, config: Any) -> Readout:
    names = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    head = next((HEADS[name] for name in HEADS if name in names), None)
    if head is not None:
        return head
    if config.model_type == "siglip_vision_model":
        return "map" if config.vision_use_head else "avg"
    return "avg" if getattr(config, "use_mean_pooling", False) else "token"


def _pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
