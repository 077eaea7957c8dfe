"""Images in files and folders."""

from collections.abc import Iterable
from pathlib import Path

from vit_interactions.images.reading import image_extensions
from vit_interactions.utilities.text import printable

NAMED = 3  # skipped files of a folder that are named


def find_images(paths: Iterable[Path]) -> list[Path]:
    """List the given files, and in the place of a folder the images directly in it, by name.

    A file that cannot be read, such as a broken link, is left for the run to report, unless all are missing.

    Raises:
        ValueError: a folder without images, or nothing there at all.
    """
    extensions = image_extensions()
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in _files_in(path) if file.suffix.lower() in extensions]
            if not inside:
                raise ValueError(
                    f"`images` must be images or folders with images directly in them, but {path} has none."
                )
            found += inside
        else:
            found.append(path)
    if not any(path.exists() for path in found):
        raise ValueError(f"`images` must be images or folders, but there is nothing at {found[0]}.")
    return found


def skipped_files(paths: Iterable[Path]) -> str:
    """Word which files of folders `find_images` skips because they are not images; empty if none.

    Hidden files are not mentioned.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("cat.jpg", "data.csv", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     skipped_files([Path(folder)])
        'skipped 2 files that are not images: data.csv, notes.txt'
    """
    extensions = image_extensions()
    names = [
        file.name
        for folder in paths
        if folder.is_dir()
        for file in _files_in(folder)
        if file.suffix.lower() not in extensions and not file.name.startswith(".")
    ]
    if not names:
        return ""
    number = "1 file that is not an image" if len(names) == 1 else f"{len(names)} files that are not images"
    more = ", ..." if len(names) > NAMED else ""
    return printable(f"skipped {number}: {', '.join(names[:NAMED])}{more}")


def _files_in(folder: Path) -> list[Path]:
    """List what is directly in a folder by name, without its folders; broken links are files."""
    return sorted(path for path in folder.iterdir() if not path.is_dir())
