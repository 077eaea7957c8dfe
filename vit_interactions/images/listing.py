"""Find image files in folders."""

from collections.abc import Iterable
from pathlib import Path

from vit_interactions.images.reading import image_extensions
from vit_interactions.utilities.text import printable

NAMED = 3  # skipped files that are listed by name


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, with each folder replaced by the images directly in it, sorted by name.

    Unreadable files, such as broken links, are returned too: the run reports them.

    Raises:
        ValueError: a folder contains no image, or none of the files exists.
    """
    extensions = image_extensions()
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in _files_in(path) if file.suffix.lower() in extensions]
            if not inside:
                raise ValueError(
                    f"`images` must be image files or folders that contain some, got {path}, which contains none."
                )
            found += inside
        else:
            found.append(path)
    if not any(path.exists() for path in found):
        raise ValueError(f"`images` must be image files or folders, got {found[0]}, which does not exist.")
    return found


def skipped_files(paths: Iterable[Path]) -> str:
    """Report which files in folders `find_images` skips because they are not images; "" if none.

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
    kind = "file that is not an image" if len(names) == 1 else "files that are not images"
    more = ", ..." if len(names) > NAMED else ""
    return printable(f"skipped {len(names)} {kind}: {', '.join(names[:NAMED])}{more}") if names else ""


def _files_in(folder: Path) -> list[Path]:
    """Return the files directly in a folder, sorted by name; broken links count as files."""
    return sorted(path for path in folder.iterdir() if not path.is_dir())
