"""Locks on output folders and files; the system releases them when the process ends, even if it is killed."""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vit_interactions.utilities.files import write_errors
from vit_interactions.utilities.names import shorten

LOCK = ".lock"  # suffix of lock files
CONTENDED = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_guard = threading.Lock()
_owners: dict[Path, int] = {}  # lock file -> thread that owns it


@contextmanager
def locked(out: Path, rank: int = 0, *, first: bool = True) -> Iterator[None]:
    """Lock a folder against other runs for the duration of the block.

    A missing folder is created, and removed again if it is empty at the end. The same thread may lock it again inside
    the block. On file systems without locks, nothing is locked.

    Args:
        out: the folder.
        rank: rank of this process, if each process of a run has its own lock.
        first: False in the other processes of a run whose first process owns the lock; they do nothing.

    Raises:
        BlockingIOError: another run writes to the folder.
        ValueError: `out` is a file.
        WriteError: the folder cannot be created or written to.

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
    with _created(folder), _file_locked(folder / f"{f'.{rank}' if rank else ''}{LOCK}", out):
        yield


@contextmanager
def locked_file(out: Path) -> Iterator[None]:
    """Lock a file against other runs for the duration of the block, as `locked` does for a folder.

    Raises:
        BlockingIOError: another run writes the file.
        WriteError: its folder cannot be created or written to.
    """
    file = out.resolve()
    with _created(file.parent), _file_locked(file.with_name(f".{shorten(file.name, 200)}{LOCK}"), out):
        yield


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create a folder and its parents; remove those that it created and that are empty at the end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the first one that is not empty ends the loop
            for path in missing:
                path.rmdir()


@contextmanager
def _file_locked(path: Path, out: Path) -> Iterator[None]:
    with _guard:
        owner = _owners.get(path)
        handle = None
        if owner is None:
            with write_errors(out):
                handle = _take(path)
        if owner != threading.get_ident() and handle is None:
            raise BlockingIOError(
                f"{out} is in use by another run. Wait until that run has ended, or choose another place."
            )
        if handle is not None:
            _owners[path] = threading.get_ident()
    try:
        yield
    finally:
        if handle is not None:
            with _guard:
                del _owners[path]
                _release(path, handle)


def _take(path: Path) -> int | None:
    """Open and lock a file; return its handle, or None if another process owns the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if not _lock(handle):
            os.close(handle)
            return None
        # The previous owner may have removed the file between the two calls above.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.lstat()):
                return handle
        os.close(handle)


def _release(path: Path, handle: int) -> None:
    if sys.platform == "win32":  # Windows cannot remove open files
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
        # `flock` locks would be inherited by data loader workers, which can outlive their killed parent.
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in CONTENDED
        return True
