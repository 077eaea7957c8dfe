"""Load the vision towers of open_clip by name, with their preprocessing in timm's words."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from vit_interactions.loading.models import nearest, reason_of

INSTALL = 'pip install "vit_interactions[open_clip]"'
TOWER = "visual."  # what the weights of a vision tower are called inside those of a CLIP model
# In the place of a text tower that is not needed; its size does not matter.
NO_TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


def load(name: str, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """Create the vision tower of a model of open_clip. Its outputs are the features of an image, not classes.

    Args:
        name: one of `open_clip.list_models()`, with "/" and a tag of `open_clip.list_pretrained_tags_by_model(name)`
            behind it. The tag names the weights and says how images are prepared; with weights of one's own it says
            the latter only, and may be left out for the first one.
        weights: a state dict that the caller loads; None loads those of the tag.

    Returns:
        The tower in float32; its `pretrained_cfg` states the preprocessing.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: an unknown name or tag, neither tag nor weights, or preprocessing that timm has no words for.
        OSError: the weights could not be had.

    Example:
        >>> load("ViT-B-31/openai")
        Traceback (most recent call last):
        ValueError: `model` must be one of open_clip's, got 'ViT-B-31'. Did you mean ViT-B-32 or ViT-B-16 or ViT-g-14?
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(f"models of open_clip need the package open_clip_torch: {INSTALL}") from error

    name, _, tag = name.partition("/")
    if name not in open_clip.list_models():
        raise ValueError(
            f"`model` must be one of open_clip's, got {name!r}.{nearest(name, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if (tag and tag not in tags) or (not tag and weights is None):
        known = f"one of {', '.join(tags[:5])}{', ...' if len(tags) > 5 else ''}" if tags else "none that is known"
        raise ValueError(
            f"`model` must name the weights as open_clip:{name}/TAG with {known}, got {tag or 'no tag'!r}."
            f"{nearest(tag, tags) if tag else ' Or give a file of yours as `checkpoint`.'}"
        )
    prepared: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag or tags[0]) if tag or tags else {}
    with _quiet():
        tower = _tower(open_clip, name, None if weights else tag, prepared)
    tower.pretrained_cfg = preprocessing(name, tower, prepared)
    created: nn.Module = tower
    return created


def own_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the vision tower's weights out of those of a whole model; others are what they are.

    Example:
        >>> own_weights({"module.visual.proj": 1, "module.logit_scale": 2})
        {'proj': 1}
    """
    found = {
        key.partition(TOWER)[2]: value
        for key, value in weights.items()
        if key.removeprefix("module.").startswith(TOWER)
    }
    return found or weights


def preprocessing(name: str, tower: Any, prepared: dict[str, Any]) -> dict[str, Any]:
    """Say in timm's words how images are prepared.

    Args:
        name: of the model, for the message.
        tower: its vision tower, whose `image_size` is taken.
        prepared: open_clip's configuration of the weights.

    Raises:
        ValueError: images that are padded to a square.
    """
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    modes = {"shortest": "center", "squash": "squash"}
    mode = prepared.get("resize_mode") or "shortest"
    if mode not in modes:
        raise ValueError(
            f"open_clip:{name} resizes images by their {mode} side, which timm's transforms cannot follow. Load the "
            "model yourself and give `figures.prepare` its `transform`."
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
    # Downloads and checkpoints fail in ways of their own.
    except Exception as error:
        raise OSError(
            f"open_clip:{name}{f'/{tag}' if tag else ''} could not be had; give a file of yours as `checkpoint` "
            f"(--checkpoint on the command line). The reason: {reason_of(error)}"
        ) from error
    return model.visual


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip, which logs by the root logger, from setting that up and from saying that weights come later."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
