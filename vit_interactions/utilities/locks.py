"""A lock on the place that a run writes to, which ends with the process, however that ends."""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vit_interactions.utilities.names import shorten
from vit_interactions.utilities.writing import writing

LOCK = ".lock"  # ends the names of lock files
CONTENDED = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_guard = threading.Lock()
_held: dict[Path, int] = {}  # lock file -> thread that has it


@contextmanager
def locked(out: Path, rank: int = 0, *, first: bool = True) -> Iterator[None]:
    """Keep other runs out of a folder for a block.

    The folder is made if missing, and removed again if nothing was written to it. A block of the same thread inside
    may lock it again. On file systems without locks, nothing is locked.

    Args:
        out: the folder.
        rank: number of this process where each process of a run has a lock of its own.
        first: False in processes of a run whose first one has the lock; they do nothing.

    Raises:
        BlockingIOError: another run writes to the folder.
        ValueError: `out` is a file.
        WriteError: the folder cannot be made or written to.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with locked(Path(folder, "out")):
        ...         os.listdir(Path(folder, "out"))
        ...     os.listdir(folder)
        ['.lock']
        []
    """
    if not first:
        yield
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"`out` must be a folder, got {out}, which is a file.")
    folder = out.resolve()
    with _made(folder), _file_locked(folder / f"{f'.{rank}' if rank else ''}{LOCK}", out):
        yield


@contextmanager
def locked_file(out: Path) -> Iterator[None]:
    """Keep other runs off a file for a block, as `locked` keeps them out of a folder; its folder is made if missing.

    Raises:
        BlockingIOError: another run writes the file.
        WriteError: its folder cannot be made or written to.
    """
    file = out.resolve()
    with _made(file.parent), _file_locked(file.with_name(f".{shorten(file.name, 200)}{LOCK}"), out):
        yield


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder; remove it again, and those made above it, if it is empty in the end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # of the first that is not empty
            for path in missing:
                path.rmdir()


@contextmanager
def _file_locked(path: Path, out: Path) -> Iterator[None]:
    with _guard:
        owner = _held.get(path)
        handle = None
        if owner is None:
            with writing(out):
                handle = _take(path)
        if owner != threading.get_ident() and handle is None:
            raise BlockingIOError(
                f"{out} must not be in use, but another run is writing to it. Wait until that run has ended, or choose "
                "another place."
            )
        if handle is not None:
            _held[path] = threading.get_ident()
    try:
        yield
    finally:
        if handle is not None:
            with _guard:
                del _held[path]
                _release(path, handle)


def _take(path: Path) -> int | None:
    """Open and lock a file; None if another process has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if not _lock(handle):
            os.close(handle)
            return None
        # Whoever had the lock may have removed the file between the two calls above.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.lstat()):
                return handle
        os.close(handle)


def _release(path: Path, handle: int) -> None:
    if sys.platform == "win32":  # where no open file can be removed
        os.close(handle)
        with suppress(OSError):
            path.unlink()
    else:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            return error.errno not in CONTENDED
        return True

else:
    import fcntl

    def _lock(handle: int) -> bool:
        # A lock of `flock` would live on in the workers of a loader when their parent is killed.
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in CONTENDED
        return True
