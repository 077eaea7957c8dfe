"""The window settings that a model was trained with, if its files contain them."""

import json
from collections.abc import Mapping
from pathlib import Path

# The settings of a training run that determine its windows, each an option of the commands.
WINDOW_SETTINGS = ("alpha", "beta", "window_coverage", "exclude_sinks")


def trained_windows(name: str) -> dict[str, float]:
    """Read the `WINDOW_SETTINGS` that a model "local-dir:FOLDER" was trained with; empty if unknown.

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


def other_windows(
    name: str,
    trained: Mapping[str, float],
    alpha: float,
    beta: float,
    coverage: float = 1.0,
    exclude_sinks: bool = False,
) -> list[str]:
    """Describe differences of the window settings from those that a model was trained with.

    Example:
        >>> other_windows("winft", {"alpha": 0.028, "beta": 0.2, "window_coverage": 0.9}, 0.1, 0.2)
        ['winft was trained with --alpha 0.028, not 0.1', 'winft was trained with --window-coverage 0.9, not 1']
        >>> other_windows("winft", {"exclude_sinks": True}, 0.1, 0.2)
        ['winft was trained with --exclude-sinks']
    """
    used = dict(zip(WINDOW_SETTINGS, (alpha, beta, coverage, exclude_sinks), strict=True))
    return [
        f"{name} was trained {_given(setting, value, used[setting])}"
        for setting, value in trained.items()
        if used.get(setting, value) != value
    ]


def _given(setting: str, trained: float, used: float) -> str:
    option = f"--{setting.replace('_', '-')}"
    if isinstance(trained, bool):
        return f"{'with' if trained else 'without'} {option}"
    return f"with {option} {trained:g}, not {used:g}"
