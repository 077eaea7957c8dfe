"""Replace a results folder atomically: a run killed at any time leaves either the old folder or the new one.

The new folder is written as `.NAME.partial`. Once complete, the old one is renamed to `.NAME.replaced`, the new one is
renamed to NAME, and the old one is removed. `repair` completes or reverts a replacement that a killed run left behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vit_interactions.gallery.folder import MANIFEST, is_complete, is_results, other_files
from vit_interactions.utilities.files import PARTIAL, fsync_folder, partial_path, write_errors

REPLACED = ".replaced"  # suffix of folders that are being removed


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder, which replaces the given one at the end of the `with` block.

    Raises:
        ValueError: a file that the run did not write is in the way.
        WriteError: the disk is full or not writable; the old folder is unchanged.
    """
    partial = partial_path(folder)
    with write_errors(folder):
        clear(partial)
        partial.mkdir()
        try:
            yield partial
            put_in_place(partial, folder)
        finally:
            with suppress(OSError):
                discard(partial)


def put_in_place(partial: Path, folder: Path) -> None:
    """Replace a folder by a complete one; files that the run did not write are moved to the new folder."""
    old = folder.with_name(f".{folder.name}{REPLACED}")
    if folder.exists():
        others = other_files(folder)
        for path in others:
            if (partial / path.name).exists():
                raise ValueError(f"{path} has the name of a result. Move it, or choose another `out`.")
        clear(old)
        for path in others:
            path.rename(partial / path.name)
        folder.rename(old)
    partial.rename(folder)
    fsync_folder(folder.parent)
    discard(old)


def clear(folder: Path) -> None:
    """Remove a hidden folder that an earlier run left behind.

    Raises:
        ValueError: it contains files that no run wrote.
    """
    discard(folder)
    if folder.exists():
        raise ValueError(
            f"{folder} has the name of a temporary folder of this run. Move it, or choose another `out`."
        )


def discard(folder: Path) -> None:
    """Remove a results folder, the manifest last so that an interrupted removal can be resumed.

    Folders that are not results, or contain other files, are not touched.
    """
    if is_results(folder) and not other_files(folder):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            path.unlink()
        folder.rmdir()


def repair(out: Path) -> None:
    """Complete or revert the replacements that a killed run left behind in its output folder."""
    with write_errors(out):
        for partial, folder in _hidden(out, PARTIAL):
            if is_complete(partial) and (is_results(folder) or not folder.exists()):
                put_in_place(partial, folder)
            else:
                discard(partial)
        for old, folder in _hidden(out, REPLACED):
            if folder.exists():
                discard(old)
            else:
                old.rename(folder)


def _hidden(out: Path, ending: str) -> list[tuple[Path, Path]]:
    """Return the hidden results folders with a suffix, and the folders that they belong to."""
    return [
        (path, path.with_name(path.name[1 : -len(ending)]))
        for path in sorted(out.glob(f".[!.]*{ending}"))
        if is_results(path)
    ]
