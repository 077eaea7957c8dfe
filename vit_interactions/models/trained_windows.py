"""The windows that a model was trained with, where its files say so."""

import json
from collections.abc import Mapping
from pathlib import Path


def trained_windows(name: str) -> dict[str, float]:
    """Read α and β that a model "local-dir:FOLDER" was trained with; empty where they are not known.

    Example:
        >>> trained_windows("vit_tiny_patch16_224")
        {}
    """
    source, _, folder = name.partition(":")
    config = Path(folder) / "config.json"
    if source != "local-dir" or not config.is_file():
        return {}
    known: dict[str, float] = json.loads(config.read_text(encoding="utf-8")).get("windows", {})
    return known


def other_windows(name: str, trained: Mapping[str, float], alpha: float, beta: float) -> list[str]:
    """Word where α and β differ from those that a model was trained with.

    Example:
        >>> other_windows("winft", {"alpha": 0.028, "beta": 0.2}, 0.1, 0.2)
        ['winft was trained with --alpha 0.028, not 0.1']
    """
    used = {"alpha": alpha, "beta": beta}
    return [
        f"{name} was trained with --{setting} {value:g}, not {used[setting]:g}"
        for setting, value in trained.items()
        if used.get(setting, value) != value
    ]
