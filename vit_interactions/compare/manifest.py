"""The first file of a comparison: settings, versions, models and images, read back with every key checked."""

import hashlib
import json
from pathlib import Path
from typing import Any

from vit_interactions.compare.units import MANIFEST
from vit_interactions.utilities.json_files import DamagedFileError, check_keys, read_json

ADVICE = "Restore the file, or compare again into another folder."

KEYS = {"settings": dict, "versions": dict, "models": dict, "photographs": list}
SETTINGS = {"target": int | str, "alpha": float, "beta": float, "seed": int, "methods": dict, "metrics": dict}
MODEL = {"folder": str, "trained": dict}
IMAGE = {"key": str, "name": str, "path": str, "boxes": list, "mask": str | None}
BOX = {"left": float, "top": float, "right": float, "bottom": float}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a comparison; None where a folder has none.

    Raises:
        DamagedFileError: it is damaged, or a key is missing or holds a value of another type.
    """
    path = folder / MANIFEST
    content = read_json(path, ADVICE)
    if content is None:
        return None
    check_keys(path, content, KEYS, ADVICE)
    settings = content["settings"]
    check_keys(path, settings, SETTINGS, ADVICE, "settings")
    for name, method in settings["methods"].items():
        check_keys(path, method, {}, ADVICE, f"settings.methods.{name}")
    for name, metric in settings["metrics"].items():
        check_keys(path, metric, {"direction": str}, ADVICE, f"settings.metrics.{name}")
    for key in ("models", "photographs"):
        if not content[key]:
            raise DamagedFileError(f"{path}: `{key}` must have at least one, got none", ADVICE)
    for name, model in content["models"].items():
        check_keys(path, model, MODEL, ADVICE, f"models.{name}")
        check_file_name(path, model["folder"], f"models.{name}.folder")
    for number, image in enumerate(content["photographs"]):
        check_image(path, image, f"photographs[{number}]")
    return content


def check_image(path: Path, image: Any, within: str) -> None:
    """Raise DamagedFileError unless an entry of the manifest describes an image."""
    check_keys(path, image, IMAGE, ADVICE, within)
    check_file_name(path, image["key"], f"{within}.key")
    for number, box in enumerate(image["boxes"]):
        check_keys(path, box, BOX, ADVICE, f"{within}.boxes[{number}]")


def check_file_name(path: Path, name: str, key: str) -> None:
    """Raise DamagedFileError where a name would lead to another folder."""
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise DamagedFileError(f"{path}: `{key}` must be the name of a file, got {name!r}", ADVICE)


def run_checksum(content: dict[str, Any], model: str) -> str:
    """Compute the SHA-256 of what all units of a model depend on: settings, versions and the model itself."""
    text = json.dumps([content["settings"], content["versions"], content["models"][model]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
