"""The folder of a study, which is resumed only with the same settings."""

from pathlib import Path
from typing import Any

from vit_interactions.compare.run import first_difference
from vit_interactions.utilities.files import partial_path, remove_partials
from vit_interactions.utilities.json_files import read_json, write_json
from vit_interactions.utilities.locks import LOCK

MANIFEST = "study.json"


def open_study(folder: Path, content: dict[str, Any], *, resume: bool) -> None:
    """Check that a study may be written to a folder, and write its manifest, `study.json`.

    Args:
        folder: the output folder; it must exist.
        content: what the results depend on, as JSON.
        resume: whether the folder may have results of the same study.

    Raises:
        ValueError: a folder with other content; a study without `resume`, or one with other settings, another model,
            other images or other package versions, whose rows must not be mixed.
        WriteError: the disk is full, or the folder is not writable.
    """
    path = folder / MANIFEST
    earlier = read_json(path, "Restore the file, or choose another folder.")
    if earlier is None:
        present = {path.name for path in folder.iterdir()}
        if not present <= {LOCK, partial_path(path).name}:
            raise ValueError(f"`out` must be an empty folder or that of a study, got {folder} with other files.")
    elif not resume:
        raise ValueError(f"`out` must be a new folder, got {folder}, which has a study. Resume it (--resume).")
    else:
        for part, now in content.items():
            if earlier.get(part) != now:
                change = first_difference(earlier.get(part), now) if part != "images" else ""
                raise ValueError(
                    f"`out` must be a folder of the same study, got {folder} with other {part}"
                    f"{change and f': {change}'}. Choose another folder."
                )
    remove_partials(folder)
    write_json(path, content)
