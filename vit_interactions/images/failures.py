"""The failures of single images, which do not end a run over many."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.utilities.files import WriteError
from vit_interactions.utilities.text import describe_error

# Errors of reading or explaining one image.
IMAGE_ERRORS = (OSError, ValueError, IndexError, RuntimeError, MemoryError)


@contextmanager
def recorded_failure(failed: dict[str, str], image: Path) -> Iterator[None]:
    """Record why the block fails for an image, and continue after it.

    Args:
        failed: image -> reason, to add to.
        image: its file.

    Raises:
        UnsupportedModelError: by the block; all other images would fail too.
        WriteError: likewise.

    Example:
        >>> failed = {}
        >>> with recorded_failure(failed, Path("cat.png")):
        ...     raise ValueError("no cat")
        >>> failed
        {'cat.png': 'no cat'}
    """
    try:
        yield
    except (UnsupportedModelError, WriteError):
        raise
    except IMAGE_ERRORS as error:
        failed[str(image)] = describe_error(error)
