"""Load a timm model, or a model of a library that an adapter supports, by name, pretrained or from a checkpoint."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import get_pretrained_cfg, load_state_dict
from torch import Tensor, nn

import vit_interactions.models  # noqa: F401 - registers them with timm
from vit_interactions.attention.probe import probe
from vit_interactions.utilities.adapters import MODELS
from vit_interactions.utilities.files import check_regular_file
from vit_interactions.utilities.text import did_you_mean

# timm modules whose models have global attention, from every patch to every patch.
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

LOCAL = "local-dir:"  # timm's prefix of a folder with a model

# Models of these modules with two attention maps per layer.
DIFFERENTIAL_ATTENTION = ("*dwee*", "*dlittle*", "*dpwee*")


def load_model(
    name: str, checkpoint: Path | None = None, device: str = "cpu", *, needs_attention: bool = True
) -> nn.Module:
    """Load a model with trained weights, in eval mode, on a device.

    Args:
        name: a timm model, including those that other imported packages register; "hf:" and a folder or a name on the
            Hugging Face hub; "torchvision:" and a name; or "open_clip:", a name, "/" and a tag.
        checkpoint: a safetensors file, or a pickle that contains only weights. The number of classes is read from it.
            None: the library's pretrained weights.
        device: device of the model.
        needs_attention: raise if the model has no attention among patches.

    Raises:
        UnsupportedModelError: the model's attention is not supported; raised before its weights are downloaded.
        ImportError: the model's library is not installed.
        ValueError: an unknown name, or a checkpoint of another model.
        FileNotFoundError: no such checkpoint.
        OSError: the pretrained weights could not be downloaded.
    """
    source, _, inner_name = name.partition(":")
    if source not in MODELS:
        check_model_name(name)
    weights = None if checkpoint is None else read_checkpoint(checkpoint)
    if source in MODELS:
        adapter = importlib.import_module(MODELS[source])
        model = adapter.load(inner_name, weights)
        # Checkpoints of image-text models contain more than the image tower.
        weights = adapter.tower_weights(weights) if weights and hasattr(adapter, "tower_weights") else weights
    elif weights is None:
        if needs_attention and not is_known_family(name):
            _probe_untrained(name)
        model = pretrained_model(name)
    else:
        model = new_model(name, num_classes=count_classes(name, weights))
    if checkpoint is not None and weights is not None:
        load_weights(model, name, weights, checkpoint)
    loaded: nn.Module = model.eval().to(device)
    return loaded


def is_known_family(name: str) -> bool:
    """Check whether a timm model belongs to a family with global attention."""
    architecture = name.split(".")[0]
    return any(architecture in timm.list_models(architecture, module=family) for family in FAMILIES)


def _probe_untrained(name: str) -> None:
    """Probe the untrained model, so that an unsupported model raises before its weights are downloaded."""
    model = new_model(name)
    _, height, width = resolve_model_data_config(model)["input_size"]  # type: ignore[no-untyped-call]
    probe(model, (height, width))


def weights_file(name: str, checkpoint: Path | None) -> Path | None:
    """Return the file with a model's weights: the checkpoint, or the one in a local "hf:" folder; None if neither.

    Example:
        >>> weights_file("test_vit", Path("weights.safetensors")).name
        'weights.safetensors'
    """
    source, _, folder = name.partition(":")
    inside = Path(folder) / "model.safetensors"
    return inside if checkpoint is None and source == "hf" and inside.is_file() else checkpoint


def check_model_name(name: str) -> None:
    """Raise ValueError unless timm can load the name; the error suggests similar names."""
    if ":" in name and not name.startswith((LOCAL, "hf-hub:", "hf_hub:")):
        raise ValueError(
            f"`model` must be a timm model, {LOCAL} and a folder, or hf-hub: and a name, got {name!r}."
        )
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise ValueError(f"`model` must be a timm model, got {name!r}.{did_you_mean(name, timm.list_models())}")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint without executing any code in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a regular file, neither safetensors nor a weights-only pickle, or a file without weights.
    """
    check_regular_file("checkpoint", path)
    try:
        content = load_state_dict(str(path), weights_only=True)
    # Each format and library version raises different errors; they all mean the same to the user.
    except Exception as error:
        raise ValueError(
            f"`checkpoint` must be a safetensors file or a pickle of weights only, got {path}, which could not be read "
            f"as one ({type(error).__name__})."
        ) from error
    weights = find_weights(content)
    if weights is None:
        raise ValueError(
            f"`checkpoint` must contain exactly one dict of tensors, got none or several in {path}. Save the model's "
            "`state_dict()`."
        )
    for key, value in weights.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            kind = "no data" if value.is_meta else f"{value.layout}, {value.dtype}".replace("torch.", "")
            raise ValueError(
                f"`checkpoint` must contain dense tensors of real numbers, got `{key}` with {kind} in {path}. Save "
                "dense, dequantized weights."
            )
    return weights


def find_weights(content: Any) -> dict[str, Tensor] | None:
    """Return the only dict of tensors in a checkpoint's content, which may be a value under any key; None if not one.

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
    """Create a timm model; options that are None are omitted.

    Raises:
        ValueError: an option that the model does not accept, or a "local-dir:" folder that timm cannot read.
        OSError: the model or its weights could not be downloaded.
    """
    options = {key: value for key, value in options.items() if value is not None}
    try:
        model: nn.Module = timm.create_model(name, **options)
    # Models and download sources raise many types of errors, even out of memory.
    except Exception as error:
        raise _creation_error(name, options, error) from error
    return model


def pretrained_model(name: str, **options: Any) -> nn.Module:
    """Create a timm model with timm's pretrained weights; raises as `new_model` does."""
    return new_model(name, pretrained=True, **options)


def _creation_error(name: str, options: dict[str, Any], error: Exception) -> Exception:
    reason = error_summary(error)
    if name.startswith(LOCAL):
        return ValueError(
            f"`model` must be {LOCAL} and a folder with the config.json and weights of a timm model, got {name}, "
            f"which cannot be loaded: {type(error).__name__}: {reason}"
        )
    given = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "pretrained")
    if given and (isinstance(error, TypeError) or not ("pretrained" in options or isinstance(error, OSError))):
        return ValueError(f"`model` {name} does not take {given}: {reason}")
    return download_error(f"the pretrained weights of {name}", reason)


def download_error(what: str, reason: str) -> OSError:
    """Return the error for pretrained weights that could not be downloaded, with advice."""
    return OSError(
        f"{what} could not be downloaded. Pass your own file as `checkpoint` (--checkpoint on the command line). "
        f"Reason: {reason}"
    )


def error_summary(error: Exception) -> str:
    """Return the first line of an error, without torch's advice to execute the code in a pickle.

    Example:
        >>> error_summary(RuntimeError("no connection" + chr(10) + "more")), error_summary(KeyError("architecture"))
        ('no connection', "'architecture'")
        >>> error_summary(ValueError("Weights only load failed. Set weights_only=False ..."))
        'it is a pickle that contains more than weights, which is not read because it could run code'
    """
    text = str(error)
    if "weights_only" in text or "allow_pickle" in text:
        return "it is a pickle that contains more than weights, which is not read because it could run code"
    first, *others = text.splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first


def count_classes(name: str, weights: dict[str, Tensor]) -> int:
    """Read the number of classes from the classifier's weight, under any prefix; 0 without a classifier."""
    known = get_pretrained_cfg(name)
    classifier = "head" if known is None else known.classifier
    first = classifier[0] if isinstance(classifier, tuple | list) else classifier
    own = min((key for key in weights if f".{key}".endswith(f".{first}.weight")), key=len, default=None)
    return 0 if own is None or weights[own].ndim == 0 else weights[own].shape[0]


def strip_prefix(weights: dict[str, Tensor], wanted: Iterable[str]) -> tuple[dict[str, Tensor], str]:
    """Remove the key prefix of a model that was saved as part of another, such as Lightning's `model.` or `backbone.`.

    Args:
        weights: weights of the checkpoint.
        wanted: keys of the model.

    Returns:
        The weights without the prefix that fits the model best, and that prefix; keys without it are kept.

    Example:
        >>> strip_prefix({"net.head.bias": torch.ones(1)}, ["head.bias"])
        ({'head.bias': tensor([1.])}, 'net.')
    """
    wanted = set(wanted)
    prefixes = {""} | {key[:end] for key in weights for end in _ends(key)}
    fitting = {prefix: sum(prefix + key in weights for key in wanted) for prefix in prefixes}
    best = max(sorted(prefixes, key=len), key=fitting.__getitem__)
    stripped = {key.removeprefix(best): value for key, value in weights.items()}
    # Another model, or keys that would collide.
    if 2 * fitting[best] <= len(wanted) or len(stripped) < len(weights):
        return weights, ""
    return stripped, best


def _ends(key: str) -> list[int]:
    return [place + 1 for place, char in enumerate(key) if char == "."]


def load_weights(model: nn.Module, name: str, weights: dict[str, Tensor], path: Path) -> None:
    """Load the weights of a checkpoint into a model with exactly the same keys, shapes and kinds of types.

    Raises:
        ValueError: missing or unexpected weights, or other shapes or types; the error names some.
    """
    own = model.state_dict()
    weights, prefix = strip_prefix(weights, own)
    wanted = {key: tuple(value.shape) for key, value in own.items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    problems = [
        *(f"no `{key}`" for key in wanted if key not in given),
        *(f"`{key}`, which the model does not have" for key in given if key not in wanted),
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
            f"`checkpoint` {path} does not fit {name}: it has {', '.join(problems[:3])}{more}{after}."
        )
    model.load_state_dict(weights)
