"""Errors of writing: a full disk ends a run with one line instead of one failure per image."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class WriteError(OSError):
    """Nothing more can be written: the disk is full, or the folder is read-only."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any `OSError` inside into a `WriteError` that names the path and says what to do.

    Args:
        path: of the file or folder that is written.

    Raises:
        WriteError: the system refused to write.

    Example:
        >>> with writing(Path("out")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        vit_interactions.utilities.writing.WriteError: out could not be written: No space left on device. Free some ...
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise write_error(path, error) from error
    except RuntimeError as error:  # of `torch.save`, which goes on after the system's error
        if not isinstance(error.__context__, OSError):
            raise
        raise write_error(path, error.__context__) from error


def write_error(path: Path, error: OSError) -> WriteError:
    """Word what the system said about a path that could not be written."""
    advice = ""
    if error.errno in FULL:
        advice = " Free some space, and run the command again."
    elif error.errno in FORBIDDEN:
        advice = " Choose another place, or change the permissions."
    worded = WriteError(f"{path} could not be written: {error.strerror or error}.{advice}")
    worded.errno = error.errno
    return worded
