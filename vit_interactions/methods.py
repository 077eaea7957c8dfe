"""All methods by name: this library's, and captum's and pytorch-grad-cam's by the adapters, loaded on use."""

import importlib
from typing import Any

from vit_interactions.adapters import METHODS
from vit_interactions.explain import EXPLAINERS, Explainer
from vit_interactions.loading import nearest


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
        hint = _others().refusal(name) or nearest(name.lower().replace("+", "_plus"), methods).strip()
        raise ValueError(
            f"`method` must be a name that `vit-interactions methods` lists, but got {name!r}. {hint}".rstrip()
        )
    return methods[name]


def _others() -> Any:
    return importlib.import_module(METHODS)
