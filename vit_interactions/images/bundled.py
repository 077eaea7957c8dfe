"""The default images, which come with scikit-image."""

from importlib.resources import files
from pathlib import Path

IMAGES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def bundled_images() -> list[Path]:
    """Return the paths of four sample images of scikit-image.

    Example:
        >>> [path.name for path in bundled_images()]
        ['astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg']
    """
    return [Path(str(files("skimage.data") / name)) for name in IMAGES]
