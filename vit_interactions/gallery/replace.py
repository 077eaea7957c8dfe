"""Replace a folder of results so that a run that is killed at any moment leaves the old one or the new one.

The new folder is filled as `.NAME.partial`. When it is complete, the old one is renamed to `.NAME.replaced`, the new
one takes its place, and the old one is removed. `repair` finishes or undoes what a killed run left between these steps.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vit_interactions.gallery.folder import MANIFEST, foreign, is_ours, is_whole
from vit_interactions.utilities.files import PARTIAL, partial_path, sync_folder
from vit_interactions.utilities.writing import writing

REPLACED = ".replaced"  # ends the names of folders that are being removed


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which takes the place of the wanted one at the end of the block.

    Raises:
        ValueError: something that the run did not write is in the way.
        WriteError: the disk is full, or cannot be written to. The old folder is still there.
    """
    partial = partial_path(folder)
    with writing(folder):
        make_way(partial)
        partial.mkdir()
        try:
            yield partial
            put_in_place(partial, folder)
        finally:
            with suppress(OSError):
                discard(partial)


def put_in_place(partial: Path, folder: Path) -> None:
    """Replace a folder by a complete one; files that the run did not write move along."""
    old = folder.with_name(f".{folder.name}{REPLACED}")
    if folder.exists():
        others = foreign(folder)
        for path in others:
            if (partial / path.name).exists():
                raise ValueError(f"{path} is in the way of a result of the same name; move it.")
        make_way(old)
        for path in others:
            path.rename(partial / path.name)
        folder.rename(old)
    partial.rename(folder)
    sync_folder(folder.parent)
    discard(old)


def make_way(folder: Path) -> None:
    """Remove what an earlier run left at the place of a hidden folder.

    Raises:
        ValueError: something else is there.
    """
    discard(folder)
    if folder.exists():
        raise ValueError(f"{folder} is in the way of the run's own files; move it.")


def discard(folder: Path) -> None:
    """Remove a folder of results, the manifest last, so that an interrupted removal can be gone on with.

    A folder that is not the run's, or holds anything else, is left as it is.
    """
    if is_ours(folder) and not foreign(folder):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            path.unlink()
        folder.rmdir()


def repair(out: Path) -> None:
    """Finish or undo what a killed run left half done in the folder of a run."""
    with writing(out):
        for partial, folder in _beside(out, PARTIAL):
            if is_whole(partial) and (is_ours(folder) or not folder.exists()):
                put_in_place(partial, folder)
            else:
                discard(partial)
        for old, folder in _beside(out, REPLACED):
            if folder.exists():
                discard(old)
            else:
                old.rename(folder)


def _beside(out: Path, ending: str) -> list[tuple[Path, Path]]:
    """List the run's hidden folders of an ending, and the folders that they stand for."""
    return [
        (path, path.with_name(path.name[1 : -len(ending)]))
        for path in sorted(out.glob(f".[!.]*{ending}"))
        if is_ours(path)
    ]
