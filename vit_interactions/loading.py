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

from vit_interactions.adapters import MODELS
from vit_interactions.explain.attention_rollout import AttentionRollout
from vit_interactions.files import check_regular_file

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


def load_model(name: str, checkpoint: Path | None = None, device: str = "cpu") -> nn.Module:
    """Create a model for explaining: in evaluation mode, on a device, with trained weights.

    Args:
        name: a model of timm, or of a package imported before that registers with timm; "hf:" and a folder or a
            name on the Hugging Face hub; or "torchvision:" and a name.
        checkpoint: a safetensors file, or a pickle that holds weights only; None loads the weights that timm
            knows for the name. The number of classes is read from the checkpoint.
        device: where the model goes.

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
        model = importlib.import_module(MODELS[source]).load(inner_name, weights)
    elif weights is None:
        if not is_known_family(name):
            _refuse_before_download(name)
        model = pretrained_model(name)
    else:
        model = timm.create_model(name, num_classes=classes_of(name, weights))
    if checkpoint is not None and weights is not None:
        load_weights(model, name, weights, checkpoint)
    loaded: nn.Module = model.eval().to(device)
    return loaded


def is_known_family(name: str) -> bool:
    """Whether a model is of one of timm's modules whose models have global attention."""
    architecture = name.split(".")[0]
    return any(architecture in timm.list_models(architecture, module=family) for family in FAMILIES)


def _refuse_before_download(name: str) -> None:
    """Explain noise with the untrained model: one that cannot be explained is refused before its weights come."""
    model = timm.create_model(name)
    size = resolve_model_data_config(model)["input_size"]  # type: ignore[no-untyped-call]
    AttentionRollout(model).patch_map(torch.zeros(1, *size))


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
    """Raise ValueError unless timm knows the model, with the nearest names."""
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
        weights = load_state_dict(str(path), weights_only=True)
    # Each format and version of its reader has errors of its own; what they mean to the user is one thing.
    except Exception as error:
        raise ValueError(
            f"`checkpoint` must be a safetensors file or a pickle of weights only, but {path} could not be read "
            f"as one ({type(error).__name__})."
        ) from error
    if not (isinstance(weights, dict) and weights and all(isinstance(v, Tensor) for v in weights.values())):
        raise ValueError(f"`checkpoint` must map names to tensors, but {path} does not.")
    return weights


def pretrained_model(name: str, **options: Any) -> nn.Module:
    """Create a model of timm with the weights that timm knows for it.

    Raises:
        OSError: there are none, or they could not be had.
    """
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **options)
    # Each source of weights has errors of its own: no weights for the name, no network, no such file.
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"the pretrained weights of {name} could not be had; give a file of yours as `checkpoint` "
            "(--checkpoint on the command line). The reason: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return model


def classes_of(name: str, weights: dict[str, Tensor]) -> int:
    """Read the number of classes from the classifier's weight; 0 where the checkpoint has none."""
    known = get_pretrained_cfg(name)
    classifier = "head" if known is None else known.classifier
    first = classifier[0] if isinstance(classifier, tuple | list) else classifier
    weight = weights.get(f"{first}.weight")
    return 0 if weight is None else weight.shape[0]


def load_weights(model: nn.Module, name: str, weights: dict[str, Tensor], path: Path) -> None:
    """Load the weights of a checkpoint into a model of exactly these.

    Raises:
        ValueError: weights that are missing, too many or of other shapes; some are named.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    problems = [
        *(f"no `{key}`" for key in wanted if key not in given),
        *(f"`{key}` that the model has not" for key in given if key not in wanted),
        *(
            f"`{k}` of shape {given[k]} instead of {wanted[k]}"
            for k in wanted
            if given.get(k, wanted[k]) != wanted[k]
        ),
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"`checkpoint` {path} is not one of {name}: it has {', '.join(problems[:3])}{more}.")
    model.load_state_dict(weights)
