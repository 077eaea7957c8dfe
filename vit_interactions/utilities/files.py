"""Read, hash and atomically write files; every error names the path."""

import codecs
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import IO

from vit_interactions.utilities.names import shorten

PARTIAL = ".partial"  # suffix of files that are being written
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class WriteError(OSError):
    """A write that failed because the disk is full or the folder is read-only; further writes would fail too."""


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Convert any `OSError` in the block to a `WriteError` that names the path and what to do.

    Args:
        path: file or folder that is written.

    Raises:
        WriteError: the system could not write.

    Example:
        >>> with write_errors(Path("out")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        vit_interactions.utilities.files.WriteError: out could not be written: No space left on device. Free some ...
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise write_error(path, error) from error
    except RuntimeError as error:  # `torch.save` raises it while it handles the system's error
        if not isinstance(error.__context__, OSError):
            raise
        raise write_error(path, error.__context__) from error


def write_error(path: Path, error: OSError) -> WriteError:
    """Return the `WriteError` for a path that the system could not write."""
    advice = ""
    if error.errno in _FULL:
        advice = " Free some space, and run the command again."
    elif error.errno in _FORBIDDEN:
        advice = " Choose another place, or change the permissions."
    result = WriteError(f"{path} could not be written: {error.strerror or error}.{advice}")
    result.errno = error.errno
    return result


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], writer: int | None = None) -> None:
    """Write to a temporary file in the same folder, fsync it, and rename it to the final name.

    Args:
        path: file to write; its folder must exist.
        write: function that is given the open file.
        writer: number that distinguishes processes that may write the same file at the same time.

    Raises:
        WriteError: the disk is full, or the folder is not writable. A previous file is left unchanged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder, "a"), lambda file: file.write(b"whole"))
        ...     Path(folder, "a").read_bytes(), os.listdir(folder)
        (b'whole', ['a'])
    """
    partial = partial_path(path, writer)
    with write_errors(path):
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
        fsync_folder(path.parent)


def write_bytes(path: Path, content: bytes, writer: int | None = None) -> None:
    """Write bytes atomically; see `write_atomically`."""
    write_atomically(path, lambda file: file.write(content), writer)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, text.encode())


def read_text(argument: str, path: Path) -> str:
    r"""Read a text file in UTF-8, or in UTF-16 with a byte order mark, as spreadsheets write it.

    Args:
        argument: name of the file in error messages.
        path: file to read.

    Returns:
        The text without the byte order mark; line endings are kept.

    Raises:
        ValueError: another encoding (the error gives the line), or zero bytes.
        OSError: the file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "names.txt").write_bytes("ant\nbée\n".encode("utf-16"))
        ...     read_text("class_map", Path(folder, "names.txt"))
        'ant\nbée\n'
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        # Offsets in the decoder's errors do not count the byte order mark of UTF-8.
        rest = content.removeprefix(codecs.BOM_UTF8)
        line = rest[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise ValueError(
            f"`{argument}` must be text in UTF-8, got another encoding in line {line} of {path} (byte "
            f"{rest[error.start]:#04x} is not {encoding.removesuffix('-sig').upper()}). Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise ValueError(f"`{argument}` must be text in UTF-8, got zero bytes in {path}. Save it as UTF-8.")
    return text


def partial_path(path: Path, writer: int | None = None) -> Path:
    """Return the temporary path that a file or folder is written to before it is renamed.

    Example:
        >>> partial_path(Path("out", "a.json")).name, partial_path(Path("a.json"), 3).name
        ('.a.json.partial', '.a.json.3.partial')
    """
    return path.with_name(f".{shorten(path.name, 200)}{'' if writer is None else f'.{writer}'}{PARTIAL}")


def check_not_folder(path: Path) -> None:
    """Raise ValueError if there is a folder where a file is to be written; the folder is left unchanged."""
    if path.is_dir():
        raise ValueError(f"{path} must be a file, got a folder. Move it away and resume.")


def remove_partials(folder: Path, names: str = "*") -> None:
    """Remove the temporary files and folders, `.NAME.partial`, that interrupted runs left directly in a folder.

    Args:
        folder: output folder of the runs.
        names: glob pattern of NAME, for folders that may also contain other files.

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
    """Raise an error unless the path is a regular file; opening a pipe or a device may block forever.

    Args:
        argument: name of the file in error messages.
        path: file to check; links are followed.

    Raises:
        FileNotFoundError: no such file, or a broken link.
        OSError: circular links, or a folder without permission to enter.
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
    except OSError as error:  # circular links, a name that is too long, a folder without permission to enter
        raise OSError(
            f"`{argument}` must be a file that can be read, got {os.fspath(path)}: {error.strerror}."
        ) from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise ValueError(f"`{argument}` must be a file, got {kind} at {os.fspath(path)}.")


def sha256(path: Path, argument: str = "path") -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal; `argument` is its name in error messages.

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
    """Map names of files in a folder to their SHA-256, or to None if a file is missing or unreadable."""
    found: dict[str, str | None] = {}
    for name in names:
        path = folder / name
        try:
            found[name] = sha256(path) if path.is_file() else None
        except OSError:
            found[name] = None
    return found


def fsync_folder(folder: Path) -> None:
    """Fsync the folder, so that a rename survives a power failure (POSIX only)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
