"""All methods by name: this library's, and captum's and pytorch-grad-cam's by the adapters, loaded on use."""

import importlib
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn

from vit_interactions.attention.errors import ImagesNotTakenError, UnsupportedModelError
from vit_interactions.attention.probe import probe
from vit_interactions.explain import EXPLAINERS, AttentionFlow, Explainer, PatchSimilarity, RandomMap
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.loading.predictions import has_classes
from vit_interactions.utilities.adapters import METHODS
from vit_interactions.utilities.text import did_you_mean

FEW_PASSES = 5  # forward and backward together; methods with more run only on request


def all_methods() -> dict[str, type[Explainer]]:
    """List the methods: those of `EXPLAINERS`, then those of other libraries.

    Example:
        >>> list(all_methods())[0], all_methods()["gradcam"].library
        ('interaction_uncertainty', 'pytorch-grad-cam')
    """
    return {**EXPLAINERS, **{name: method for name, method in _others().METHODS.items() if name not in EXPLAINERS}}


def find_method(name: str) -> type[Explainer]:
    """Find a method by its name.

    Raises:
        ValueError: an unknown name, with the nearest ones; or a method of pytorch-grad-cam that is not offered, with
            the reason.

    Example:
        >>> find_method("gmar").__name__
        'GMAR'
    """
    if name in EXPLAINERS:
        return EXPLAINERS[name]
    methods = all_methods()
    if name not in methods:
        hint = _others().why_not_offered(name) or did_you_mean(name.lower().replace("+", "_plus"), methods).strip()
        raise ValueError(
            f"`method` must be a name that `vit-interactions methods` lists, got {name!r}. {hint}".rstrip()
        )
    return methods[name]


def pair_methods() -> list[str]:
    """List the methods that have a `pair_map`.

    Example:
        >>> "gmar" in pair_methods(), "legrad" in pair_methods()
        (True, False)
    """
    return [name for name, explainer in EXPLAINERS.items() if issubclass(explainer, PairMapped)]


def default_methods(model: nn.Module) -> list[str]:
    """List the methods to run by default: the fast ones that support the model.

    Excluded are class-specific methods for a model without classes, methods with many passes, attention flow (one
    maximum-flow problem per token), patch similarity, which is no attribution, and the random baseline. For a model
    without attention among patches, the list has every method that needs none, including other libraries'.

    Example:
        >>> import timm
        >>> default_methods(timm.create_model("test_resnet"))[:3]
        ['attn_lrp', 'saliency', 'input_x_gradient']
    """
    classes = has_classes(model)
    attention = why_unsupported(model) is None
    return [
        name
        for name, explainer in (EXPLAINERS if attention else all_methods()).items()
        if (classes or not explainer.class_specific)
        and (attention or not explainer.needs_attention)
        and explainer.forwards + explainer.backwards <= FEW_PASSES
        and explainer not in (AttentionFlow, PatchSimilarity, RandomMap)
    ]


def why_unsupported(model: nn.Module) -> str | None:
    """Return why methods that read attention do not support a model; None if they do, or if it is not known yet."""
    _, height, width = resolve_model_data_config(model)["input_size"]  # type: ignore[no-untyped-call]
    # With `img_size`, timm's configuration still states the image size of the pretrained weights.
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    try:
        probe(model, built_for or (height, width))
    except UnsupportedModelError as error:
        return str(error)
    except ImagesNotTakenError:  # raised again for the actual images
        return None
    return None


def class_count(model: nn.Module) -> int | None:
    """Read the number of classes of a timm, torchvision or transformers model; None if it is not stated.

    Example:
        >>> import timm
        >>> class_count(timm.create_model("test_vit", num_classes=5))
        5
    """
    config = getattr(model, "config", None)
    stated = getattr(model, "num_classes", None) or getattr(config, "num_labels", None)
    return stated if isinstance(stated, int) and has_classes(model) else None


def check_class(argument: str, index: int, model: nn.Module, name: str) -> None:
    """Raise ValueError unless a model has a class of this number, counted from 0.

    Example:
        >>> import timm
        >>> check_class("--target", 7, timm.create_model("test_vit", num_classes=5), "test_vit")
        Traceback (most recent call last):
        ValueError: `--target` must lie in [0, 4] for the 5 classes of test_vit, got 7.
    """
    classes = class_count(model)
    if classes is not None and not 0 <= index < classes:
        raise ValueError(
            f"`{argument}` must lie in [0, {classes - 1}] for the {classes} classes of {name}, got {index}."
        )


def _others() -> Any:
    return importlib.import_module(METHODS)
