"""Training recipes of Ma et al., arXiv 2203.05922 (main text Sec. 5.2 and supplement, "Implementation on ...")."""

from collections.abc import Mapping
from typing import Any

_PAPER: dict[str, Any] = {
    "model": "winft_base_patch16_224.augreg_in21k",
    "pretrained": True,
    "window_targets": "online",
    "alpha": 0.10,
    "beta": 0.20,
    "lambda1": 1.0,
    "lambda2": 1.0,
    "opt": "sgd",
    "momentum": 0.9,
    "sched": "cosine",
}

PRESETS: dict[str, Mapping[str, Any]] = {
    "paper-imagenet": {**_PAPER, "batch_size": 512, "lr": 0.01, "epochs": 15, "warmup_steps": 500},
    "paper-cub": {**_PAPER, "batch_size": 16, "lr": 0.03, "steps": 20_000, "img_size": 448},
}


def apply_preset(name: str | None, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a preset, overridden by the explicit ones that are not None.

    Raises:
        ValueError: an unknown preset.

    Example:
        >>> options = apply_preset("paper-cub", {"lr": 0.01, "batch_size": None})
        >>> options["lr"], options["batch_size"], options["steps"]
        (0.01, 16, 20000)
    """
    if name is not None and name not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {name!r}.")
    given = {key: value for key, value in explicit.items() if value is not None}
    options = {**(PRESETS[name] if name else {}), **given}
    # Explicit weights or an explicit length replace the preset's, which has another option for them.
    if "initial_checkpoint" in given and "pretrained" not in given:
        options.pop("pretrained", None)
    if "epochs" in given and "steps" not in given:
        options.pop("steps", None)
    # The paper trains its plain ViT with the same recipe, which finds no windows.
    if not options.get("model", "").startswith("winft") and "window_targets" not in given:
        options.pop("window_targets", None)
    return options
