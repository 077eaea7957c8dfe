"""Load a model by name, with its own or a checkpoint's weights: of timm, or of a package that an adapter knows."""

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import get_pretrained_cfg, load_state_dict
from torch import Tensor, nn

from vit_interactions.attention.probe import probe
from vit_interactions.utilities.adapters import MODELS
from vit_interactions.utilities.files import check_regular_file

# Modules of timm whose models have attention from every patch to every patch.
FAMILIES = (
    "vision_transformer",
    "deit",
    "eva",
    "beit",
    "vision_transformer_relpos",
    "naflexvit",
    "vision_transformer_hybrid",
    "winft",
    "mini",
)

LOCAL = "local-dir:"  # what timm calls folders with a model

# Models of these modules with two attention maps a layer.
DIFFERENTIAL_ATTENTION = ("*dwee*", "*dlittle*", "*dpwee*")


def nearest(name: str, known: Iterable[str]) -> str:
    """Word a suggestion of the known names nearest to a wrong one.

    Example:
        >>> nearest("rollout", ["attention_rollout", "gmar"])
        ' Did you mean attention_rollout?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or [k for k in known if name in k][:3]
    return f" Did you mean {' or '.join(close)}?" if close else ""


def load_model(
    name: str, checkpoint: Path | None = None, device: str = "cpu", *, needs_attention: bool = True
) -> nn.Module:
    """Create a model for explaining: in evaluation mode, on a device, with trained weights.

    Args:
        name: a model of timm, or of a package imported before that registers with timm; "hf:" and a folder or a
            name on the Hugging Face hub; "torchvision:" and a name; or "open_clip:", a name, "/" and a tag.
        checkpoint: a safetensors file, or a pickle that holds weights only; None loads the weights that timm
            knows for the name. The number of classes is read from the checkpoint.
        device: where the model goes.
        needs_attention: whether only models with attention among patches are of use.

    Raises:
        UnsupportedModelError: a model whose attention cannot be explained, before its weights are downloaded.
        ImportError: the package of the model is not installed.
        ValueError: an unknown name, or a checkpoint that is not this model's.
        FileNotFoundError: no such checkpoint.
        OSError: the weights that timm knows could not be had.
    """
    source, _, inner_name = name.partition(":")
    if source not in MODELS:
        check_model_name(name)
    weights = None if checkpoint is None else read_checkpoint(checkpoint)
    if source in MODELS:
        adapter = importlib.import_module(MODELS[source])
        model = adapter.load(inner_name, weights)
        # Models of images and texts hold more than the tower that sees the image.
        weights = adapter.own_weights(weights) if weights and hasattr(adapter, "own_weights") else weights
    elif weights is None:
        if needs_attention and not is_known_family(name):
            _refuse_before_download(name)
        model = pretrained_model(name)
    else:
        model = new_model(name, num_classes=classes_of(name, weights))
    if checkpoint is not None and weights is not None:
        load_weights(model, name, weights, checkpoint)
    loaded: nn.Module = model.eval().to(device)
    return loaded


def is_known_family(name: str) -> bool:
    """Whether a model is of one of timm's modules whose models have global attention."""
    architecture = name.split(".")[0]
    return any(architecture in timm.list_models(architecture, module=family) for family in FAMILIES)


def _refuse_before_download(name: str) -> None:
    """Probe the untrained model, so that an unsupported one is refused before its weights are downloaded."""
    model = new_model(name)
    _, height, width = resolve_model_data_config(model)["input_size"]  # type: ignore[no-untyped-call]
    probe(model, (height, width))


def weights_file(name: str, checkpoint: Path | None) -> Path | None:
    """Find the file that a model's weights come from: the checkpoint, or that of a local "hf:" folder; else None.

    Example:
        >>> weights_file("test_vit", Path("weights.safetensors")).name
        'weights.safetensors'
    """
    source, _, folder = name.partition(":")
    inside = Path(folder) / "model.safetensors"
    return inside if checkpoint is None and source == "hf" and inside.is_file() else checkpoint


def check_model_name(name: str) -> None:
    """Raise ValueError unless timm knows the model, with the nearest names, or where to look for it."""
    if ":" in name and not name.startswith((LOCAL, "hf-hub:", "hf_hub:")):
        raise ValueError(
            f"`model` must be a model of timm, {LOCAL} and a folder, or hf-hub: and a name, got {name!r}."
        )
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise ValueError(f"`model` must be a model of timm, but got {name!r}.{nearest(name, timm.list_models())}")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint without running any code that it may hold.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a regular file, no safetensors file and no weights-only pickle, or one without weights.
    """
    check_regular_file("checkpoint", path)
    try:
        content = load_state_dict(str(path), weights_only=True)
    # Each format and version of its reader has errors of its own; what they mean to the user is one thing.
    except Exception as error:
        raise ValueError(
            f"`checkpoint` must be a safetensors file or a pickle of weights only, but {path} could not be read "
            f"as one ({type(error).__name__})."
        ) from error
    weights = find_weights(content)
    if weights is None:
        raise ValueError(
            f"`checkpoint` must map names to tensors, once, but {path} does not. Save the model's `state_dict()`."
        )
    for key, value in weights.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            kind = "no data" if value.is_meta else f"{value.layout}, {value.dtype}".replace("torch.", "")
            raise ValueError(
                f"`checkpoint` must hold dense tensors of real numbers, got `{key}` with {kind} in {path}. Save the "
                "weights dense and dequantized."
            )
    return weights


def find_weights(content: Any) -> dict[str, Tensor] | None:
    """Find the one dict of tensors in what a checkpoint holds: itself, or one of its values by whatever name.

    Example:
        >>> find_weights({"model_state_dict": {"head.bias": torch.ones(1)}, "epoch": 3})
        {'head.bias': tensor([1.])}
    """
    candidates = [content, *(content.values() if isinstance(content, dict) else ())]
    found = [
        part
        for part in candidates
        if isinstance(part, dict)
        and part
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in part.items())
    ]
    return found[0] if len(found) == 1 else None


def new_model(name: str, **options: Any) -> nn.Module:
    """Create a model of timm; options that are None are left out.

    Raises:
        ValueError: an option that the model does not take, or a "local-dir:" folder that timm cannot read.
        OSError: a model or weights that could not be downloaded.
    """
    options = {key: value for key, value in options.items() if value is not None}
    try:
        model: nn.Module = timm.create_model(name, **options)
    # Models check their options in ways of their own, some by running out of memory; so do sources of weights.
    except Exception as error:
        raise _creation_error(name, options, error) from error
    return model


def pretrained_model(name: str, **options: Any) -> nn.Module:
    """Create a model of timm with the weights that timm knows for it; raises as `new_model` does."""
    return new_model(name, pretrained=True, **options)


def _creation_error(name: str, options: dict[str, Any], error: Exception) -> Exception:
    reason = reason_of(error)
    if name.startswith(LOCAL):
        return ValueError(
            f"`model` must be {LOCAL} and a folder with config.json and weights of a model of timm, got {name}, "
            f"which cannot be loaded: {type(error).__name__}: {reason}"
        )
    given = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "pretrained")
    if given and (isinstance(error, TypeError) or not ("pretrained" in options or isinstance(error, OSError))):
        return ValueError(f"`model` {name} does not take {given}: {reason}")
    return OSError(
        f"the pretrained weights of {name} could not be had; give a file of yours as `checkpoint` "
        f"(--checkpoint on the command line). The reason: {reason}"
    )


def reason_of(error: Exception) -> str:
    """Return the first line of an error, without torch's advice to run the code in a pickle.

    Example:
        >>> reason_of(RuntimeError("no connection" + chr(10) + "more")), reason_of(KeyError("architecture"))
        ('no connection', "'architecture'")
        >>> reason_of(ValueError("Weights only load failed. Set weights_only=False ..."))
        'it is a pickle that holds more than weights, which is not read because it could run code'
    """
    text = str(error)
    if "weights_only" in text or "allow_pickle" in text:
        return "it is a pickle that holds more than weights, which is not read because it could run code"
    first, *others = text.splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first


def classes_of(name: str, weights: dict[str, Tensor]) -> int:
    """Read the number of classes from the classifier's weight, under any prefix; 0 where the checkpoint has none."""
    known = get_pretrained_cfg(name)
    classifier = "head" if known is None else known.classifier
    first = classifier[0] if isinstance(classifier, tuple | list) else classifier
    own = min((key for key in weights if f".{key}".endswith(f".{first}.weight")), key=len, default=None)
    return 0 if own is None or weights[own].ndim == 0 else weights[own].shape[0]


def strip_prefix(weights: dict[str, Tensor], wanted: Iterable[str]) -> tuple[dict[str, Tensor], str]:
    """Take the prefix off the keys of a model that was saved as a part of another: Lightning's `model.`, `backbone.`.

    Args:
        weights: of a checkpoint.
        wanted: keys of the model.

    Returns:
        The weights by the keys that fit the model best, and the prefix that was taken off; keys without it stay.

    Example:
        >>> strip_prefix({"net.head.bias": torch.ones(1)}, ["head.bias"])
        ({'head.bias': tensor([1.])}, 'net.')
    """
    wanted = set(wanted)
    prefixes = {""} | {key[:end] for key in weights for end in _ends(key)}
    fitting = {prefix: sum(prefix + key in weights for key in wanted) for prefix in prefixes}
    best = max(sorted(prefixes, key=len), key=fitting.__getitem__)
    stripped = {key.removeprefix(best): value for key, value in weights.items()}
    if 2 * fitting[best] <= len(wanted) or len(stripped) < len(weights):  # another model, or two that would mix
        return weights, ""
    return stripped, best


def _ends(key: str) -> list[int]:
    return [place + 1 for place, char in enumerate(key) if char == "."]


def load_weights(model: nn.Module, name: str, weights: dict[str, Tensor], path: Path) -> None:
    """Load the weights of a checkpoint into a model of exactly these.

    Raises:
        ValueError: weights that are missing, too many or of other shapes; some are named.
    """
    own = model.state_dict()
    weights, prefix = strip_prefix(weights, own)
    wanted = {key: tuple(value.shape) for key, value in own.items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    problems = [
        *(f"no `{key}`" for key in wanted if key not in given),
        *(f"`{key}` that the model has not" for key in given if key not in wanted),
        *(
            f"`{k}` of shape {given[k]} instead of {wanted[k]}"
            for k in wanted
            if given.get(k, wanted[k]) != wanted[k]
        ),
        *(
            f"`{key}` of {weights[key].dtype} instead of {own[key].dtype}".replace("torch.", "")
            for key in wanted
            if key in given and own[key].is_floating_point() and not weights[key].is_floating_point()
        ),
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        after = f" (after the prefix `{prefix}`)" if prefix else ""
        raise ValueError(
            f"`checkpoint` {path} is not one of {name}: it has {', '.join(problems[:3])}{more}{after}."
        )
    model.load_state_dict(weights)
