"""Files that are whole or not there at all, and what is in them."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any

from vit_interactions.utilities.names import shorten
from vit_interactions.utilities.writing import writing

PARTIAL = ".partial"  # ends the names of files that are being written


def write_whole(path: Path, write: Callable[[IO[bytes]], object], writer: int | None = None) -> None:
    """Write a file beside the wanted one, and put it in its place when it is on the disk.

    Args:
        path: of the file, in a folder that exists.
        write: gets the open file.
        writer: tells processes apart that may write the same file at the same time.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to. What was there before is still there.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "a"), lambda file: file.write(b"whole"))
        ...     Path(folder, "a").read_bytes(), os.listdir(folder)
        (b'whole', ['a'])
    """
    partial = partial_path(path, writer)
    with writing(path):
        try:
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes, writer: int | None = None) -> None:
    """Write bytes, whole or not at all, as `write_whole` does."""
    write_whole(path, lambda file: file.write(content), writer)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all.

    Raises:
        ValueError: NaN or an infinity, which JSON does not have.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} must hold finite numbers only, since JSON has no others: {error}.") from error
    write_text(path, text + "\n")


def partial_path(path: Path, writer: int | None = None) -> Path:
    """Name what is written beside a file or folder until it is whole.

    Example:
        >>> partial_path(Path("out", "a.json")).name, partial_path(Path("a.json"), 3).name
        ('.a.json.partial', '.a.json.3.partial')
    """
    return path.with_name(f".{shorten(path.name, 200)}{'' if writer is None else f'.{writer}'}{PARTIAL}")


def refuse_folder(path: Path) -> None:
    """Raise ValueError where a folder is in the place of a file to write; it is left as it is."""
    if path.is_dir():
        raise ValueError(f"{path} must be a file, got a folder. Move it away and resume.")


def remove_partials(folder: Path, names: str = "*") -> None:
    """Remove what killed runs left half written directly in a folder: `.NAME.partial`, files or folders.

    Args:
        folder: of the runs.
        names: pattern of NAME, for folders that may hold files of others.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in (".a.json.partial", "a.json", "mine.partial"):
        ...         Path(folder, name).touch()
        ...     remove_partials(Path(folder))
        ...     sorted(os.listdir(folder))
        ['a.json', 'mine.partial']
    """
    for path in folder.glob(f".{names}{PARTIAL}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_regular_file(argument: str, path: str | PathLike[str]) -> None:
    """Raise an error for what cannot be read as a file; opening a pipe or a device may wait forever.

    Args:
        argument: what it is called in the message.
        path: of the file; links are followed.

    Raises:
        FileNotFoundError: no such file, or a broken link.
        OSError: links in a circle, or a folder that may not be entered.
        ValueError: a folder, named pipe, socket or device.

    Example:
        >>> check_regular_file("boxes", ".")
        Traceback (most recent call last):
            ...
        ValueError: `boxes` must be a file, got a folder at ..
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        found = f"a broken link to {os.readlink(path)}" if os.path.islink(path) else "nothing"
        raise FileNotFoundError(f"`{argument}` must be a file, got {found} at {os.fspath(path)}.") from None
    except OSError as error:  # links in a circle, a name that is too long, a folder that may not be entered
        raise OSError(
            f"`{argument}` must be a file that can be read, got {os.fspath(path)}: {error.strerror}."
        ) from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise ValueError(f"`{argument}` must be a file, got {kind} at {os.fspath(path)}.")


def sha256(path: Path, argument: str = "path") -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal; `argument` is what errors call the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a regular file.
    """
    check_regular_file(argument, path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """Return the SHA-256 of files in a folder by their names, None for those that are missing or cannot be read."""
    found: dict[str, str | None] = {}
    for name in names:
        path = folder / name
        try:
            found[name] = sha256(path) if path.is_file() else None
        except OSError:
            found[name] = None
    return found


def sync_folder(folder: Path) -> None:
    """Make a renaming in the folder outlive a loss of power, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
