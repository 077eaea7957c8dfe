"""Inspect the results folder of one image: its image, its files, and whether they are complete."""

import os
from pathlib import Path
from typing import Any

from vit_interactions.utilities.files import checksums, partial_path
from vit_interactions.utilities.json_files import DamagedFileError, read_json

MANIFEST, MAPS = "manifest.json", "maps.npz"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a folder; empty if it is missing or unreadable."""
    try:
        return read_json(folder / MANIFEST, advice="") or {}
    except (OSError, DamagedFileError):
        return {}


def is_results(folder: Path) -> bool:
    """Return whether a folder is empty or contains the results of an image, so that it may be replaced."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return (
        names <= {partial_path(folder / MANIFEST).name} or {"sha256", "settings"} <= read_manifest(folder).keys()
    )


def other_files(folder: Path) -> list[Path]:
    """Return the files in a results folder that the run did not write, such as a user's notes."""
    figures = read_manifest(folder).get("figures")
    own = [MANIFEST, MAPS, partial_path(folder / MANIFEST).name, *(figures if isinstance(figures, list) else ())]
    return [path for path in folder.iterdir() if path.name not in own or (path.is_dir() and not path.is_symlink())]


def belongs_to(folder: Path, image: Path, digest: str) -> bool:
    """Return whether a results folder belongs to an image, not to another image of the same name.

    Args:
        folder: results folder; an empty one belongs to any image.
        image: image file; if it was moved, it is recognized by its content.
        digest: SHA-256 of the image file.
    """
    manifest = read_manifest(folder)
    if not manifest:
        return True
    recorded = Path(str(manifest.get("image", "")))
    try:
        return os.path.samefile(recorded, image)
    except (OSError, ValueError):
        return manifest.get("sha256") == digest


def is_complete(folder: Path) -> bool:
    """Return whether all files in a folder's manifest exist and are unchanged."""
    recorded = read_manifest(folder).get("files")
    return isinstance(recorded, dict) and MAPS in recorded and checksums(folder, recorded) == recorded
