"""Restrict other libraries that open images with Pillow to the safe formats."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from vit_interactions.images.reading import FORMATS


@contextmanager
def only_supported_formats() -> Iterator[None]:
    """Restrict Pillow to the supported formats inside the `with` block, in all threads.

    Example:
        >>> from io import BytesIO
        >>> with only_supported_formats():
        ...     Image.open(BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0"))
        Traceback (most recent call last):
            ...
        PIL.UnidentifiedImageError: cannot identify image file ...
        >>> "EPS" in Image.ID
        True
    """
    Image.init()
    before = list(Image.ID)
    restrict_formats()
    try:
        yield
    finally:
        Image.ID[:] = before


def restrict_formats() -> None:
    """Restrict Pillow to the supported formats for the rest of this process, such as a data-loading worker."""
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]
