"""The folder of one image's results: which image it belongs to, which files are the run's, whether they are whole."""

import os
from pathlib import Path
from typing import Any

from vit_interactions.utilities.files import checksums, partial_path
from vit_interactions.utilities.json_files import DamagedFileError, read_json

MANIFEST, MAPS = "manifest.json", "maps.npz"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a folder; empty if there is none that can be read."""
    try:
        return read_json(folder / MANIFEST, advice="") or {}
    except (OSError, DamagedFileError):
        return {}


def is_ours(folder: Path) -> bool:
    """Return whether a folder may be replaced: it is empty, or holds the results of an image."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return (
        names <= {partial_path(folder / MANIFEST).name} or {"sha256", "settings"} <= read_manifest(folder).keys()
    )


def foreign(folder: Path) -> list[Path]:
    """List what a folder of results holds beside the run's own files, such as a user's notes."""
    figures = read_manifest(folder).get("figures")
    own = [MANIFEST, MAPS, partial_path(folder / MANIFEST).name, *(figures if isinstance(figures, list) else ())]
    return [path for path in folder.iterdir() if path.name not in own or (path.is_dir() and not path.is_symlink())]


def is_of(folder: Path, image: Path, digest: str) -> bool:
    """Return whether a folder of results belongs to an image, rather than to another image of the same name.

    Args:
        folder: of results; an empty one belongs to any image.
        image: the image's file. One that was moved since is recognized by its content.
        digest: SHA-256 of the file.
    """
    manifest = read_manifest(folder)
    if not manifest:
        return True
    recorded = Path(str(manifest.get("image", "")))
    try:
        return os.path.samefile(recorded, image)
    except (OSError, ValueError):
        return manifest.get("sha256") == digest


def is_whole(folder: Path) -> bool:
    """Return whether all files that a folder's manifest lists are there, with the content that was written."""
    recorded = read_manifest(folder).get("files")
    return isinstance(recorded, dict) and MAPS in recorded and checksums(folder, recorded) == recorded
