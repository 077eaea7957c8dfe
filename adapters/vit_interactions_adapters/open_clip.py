"""Load open_clip's vision towers by name, with their preprocessing in timm's format."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from vit_interactions.loading.models import download_error, error_summary
from vit_interactions.utilities.text import did_you_mean

INSTALL = 'pip install "vit_interactions[open_clip]"'
TOWER = "visual."  # key prefix of the vision tower in the weights of a CLIP model
# A tiny text tower instead of the real one, which is not needed.
NO_TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


def load(name: str, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """Create the vision tower of an open_clip model. It returns image features, not classes.

    Args:
        name: one of `open_clip.list_models()`, "/", and a tag of `open_clip.list_pretrained_tags_by_model(name)`. The
            tag selects the weights and the preprocessing. With `weights`, it selects only the preprocessing, and the
            default is the first tag.
        weights: a state dict that the caller loads; None: the weights of the tag.

    Returns:
        The tower in float32; its `pretrained_cfg` has the preprocessing.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: an unknown name or tag, neither tag nor weights, or preprocessing that timm does not support.
        OSError: the weights could not be downloaded.

    Example:
        >>> load("ViT-B-31/openai")
        Traceback (most recent call last):
        ValueError: `model` must be one of open_clip's, got 'ViT-B-31'. Did you mean ViT-B-32 or ViT-B-16 or ViT-g-14?
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(f"open_clip models need the package open_clip_torch: {INSTALL}") from error

    name, _, tag = name.partition("/")
    if name not in open_clip.list_models():
        raise ValueError(
            f"`model` must be one of open_clip's, got {name!r}.{did_you_mean(name, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if (tag and tag not in tags) or (not tag and weights is None):
        known = f"one of {', '.join(tags[:5])}{', ...' if len(tags) > 5 else ''}" if tags else "unknown"
        raise ValueError(
            f"`model` must name the weights as open_clip:{name}/TAG with TAG {known}, got {tag or 'no tag'!r}."
            f"{did_you_mean(tag, tags) if tag else ' Or pass your own file as `checkpoint`.'}"
        )
    prepared: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag or tags[0]) if tag or tags else {}
    with _quiet():
        tower = _tower(open_clip, name, None if weights else tag, prepared)
    tower.pretrained_cfg = preprocessing(name, tower, prepared)
    created: nn.Module = tower
    return created


def tower_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Extract the vision tower's weights from those of a whole model; return weights of a tower unchanged.

    Example:
        >>> tower_weights({"module.visual.proj": 1, "module.logit_scale": 2})
        {'proj': 1}
    """
    found = {
        key.partition(TOWER)[2]: value
        for key, value in weights.items()
        if key.removeprefix("module.").startswith(TOWER)
    }
    return found or weights


def preprocessing(name: str, tower: Any, prepared: dict[str, Any]) -> dict[str, Any]:
    """Convert open_clip's preprocessing to timm's format.

    Args:
        name: name of the model, for errors.
        tower: vision tower of the model, which has the `image_size`.
        prepared: open_clip's configuration of the weights.

    Raises:
        ValueError: images are padded to a square.
    """
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    modes = {"shortest": "center", "squash": "squash"}
    mode = prepared.get("resize_mode") or "shortest"
    if mode not in modes:
        raise ValueError(
            f"open_clip:{name} resizes images by their {mode} side, which timm's transforms do not support. Load the "
            "model yourself and pass its `transform` to `figures.prepare`."
        )
    size = tower.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return {
        "input_size": (3, height, width),
        "crop_pct": 1.0,
        "crop_mode": modes[mode],
        "interpolation": prepared.get("interpolation") or "bicubic",
        "mean": tuple(prepared.get("mean") or OPENAI_DATASET_MEAN),
        "std": tuple(prepared.get("std") or OPENAI_DATASET_STD),
    }


def _tower(open_clip: Any, name: str, tag: str | None, prepared: dict[str, Any]) -> Any:
    options = {"pretrained": tag} if tag else {"pretrained_text": False, "text_cfg": dict(NO_TEXT)}
    try:
        model = open_clip.create_model(name, force_quick_gelu=bool(tag and prepared.get("quick_gelu")), **options)
    # Downloads and checkpoints raise many types of errors.
    except Exception as error:
        raise download_error(f"open_clip:{name}{f'/{tag}' if tag else ''}", error_summary(error)) from error
    return model.visual


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress open_clip's log messages, and keep it from configuring the root logger."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
