"""The default model and images, which come with the package and with scikit-image."""

from importlib.resources import files
from pathlib import Path

DEFAULT_MODEL = "vit_mini_patch8_112.imagenette"
IMAGES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def bundled_images() -> list[Path]:
    """List images that come with scikit-image.

    Example:
        >>> [path.name for path in bundled_images()]
        ['astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg']
    """
    return [Path(str(files("skimage.data") / name)) for name in IMAGES]
