"""Keep other libraries, which open images by Pillow themselves, to the formats that are safe."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from vit_interactions.images.reading import FORMATS


@contextmanager
def only_supported_formats() -> Iterator[None]:
    """Let Pillow open supported formats only, in all threads, for a block.

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
    """Let Pillow open supported formats only, in the rest of this process: for workers that load images."""
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]
