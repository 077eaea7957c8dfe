"""Load transformers models by name or folder, with the preprocessing of their image processor."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention import UnsupportedModelError

INSTALL = 'pip install "vit_interactions[huggingface]"'
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic")  # indexed by PIL's numbers


def load(name: str, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """Load a ViT, with its head if it was saved as a classifier, and its preprocessing in timm's format.

    Only safetensors are read, and no code that comes with a model is executed. For image-text models, the vision tower
    is loaded.

    Args:
        name: a folder written by `save_pretrained`, or a name on the Hugging Face hub.
        weights: must be None, because the folder contains the weights.

    Returns:
        The model in float32; its `pretrained_cfg` has the preprocessing.

    Raises:
        ImportError: transformers is not installed.
        UnsupportedModelError: a model without patches.
        ValueError: `weights`, missing weights, or preprocessing that timm does not support.
        OSError: no such model, or no safetensors.
    """
    if weights is not None:
        raise ValueError(f"`checkpoint` must be None for hf:{name}, which contains its own weights.")
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"transformers models need the package transformers >= 5: {INSTALL}") from error

    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    classifies = any(
        architecture.split("For")[-1].startswith("ImageClassification")
        for architecture in config.architectures or ()
    )
    kind = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
    tower = getattr(config, "vision_config", config)
    if not hasattr(tower, "patch_size"):
        raise UnsupportedModelError(
            f"hf:{name} must be a Vision Transformer, got a model of type {tower.model_type!r} without patches."
        )
    with _quiet(transformers.utils.logging):
        model, report = kind.from_pretrained(
            name,
            config=config if classifies else tower,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    # Some checkpoints have no pooler; only `pooler_output` depends on it.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(
            f"hf:{name} has no weights for {', '.join(missing[:3])} ({len(missing)} missing in total)."
        )
    model.pretrained_cfg = preprocessing(name, tower)
    loaded: nn.Module = model
    return loaded


def preprocessing(name: str, config: Any) -> dict[str, Any]:
    """Convert a model's image processor to timm's format (`input_size`, `crop_pct`, ...).

    Args:
        name: folder or name of the model.
        config: configuration of the vision tower. If no processor was saved, its `image_size` is used, with mean and
            standard deviation 0.5.

    Raises:
        ValueError: steps that timm does not support.
    """
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except OSError:
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        half = (0.5,) * config.num_channels
        return {
            "input_size": (config.num_channels, height, width),
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": half,
            "std": half,
        }
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    # Our pixels are value / 255, whatever factor the processor uses.
    unit = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    return {
        **_geometry(name, processor),
        "interpolation": INTERPOLATIONS[int(processor.resample)],
        "mean": tuple(value / unit for value in mean),
        "std": tuple(value / unit for value in std),
    }


def _geometry(name: str, processor: Any) -> dict[str, Any]:
    """Read the resize and the crop."""
    resized, crop = processor.size, processor.crop_size if getattr(processor, "do_center_crop", False) else None
    height, width = (crop.height, crop.width) if crop else (resized.height, resized.width)
    if processor.do_resize and height and width:
        input_size = {"input_size": (len(processor.image_mean), height, width)}
        if crop is None or (resized.height, resized.width) == (height, width):
            return {**input_size, "crop_pct": 1.0, "crop_mode": "squash"}
        if resized.shortest_edge and not resized.longest_edge and height == width:
            # timm rounds down the size before the crop.
            return {**input_size, "crop_pct": height / (resized.shortest_edge + 0.5), "crop_mode": "center"}
    raise ValueError(
        f"hf:{name} resizes images to {dict(resized)} and crops to {dict(crop) if crop else None}, which timm's "
        "transforms do not support. Load the model yourself and pass its `transform` to `figures.prepare`."
    )


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Suppress the report of unused text tower weights."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
