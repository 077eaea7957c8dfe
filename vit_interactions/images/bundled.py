"""What is explained when nobody names a model or a picture: the package's own model, and scikit-image's photographs."""

from importlib.resources import files
from pathlib import Path

DEFAULT_MODEL = "vit_mini_patch8_112.imagenette"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def bundled_photographs() -> list[Path]:
    """List photographs that come with scikit-image.

    Example:
        >>> [path.name for path in bundled_photographs()]
        ['astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg']
    """
    return [Path(str(files("skimage.data") / name)) for name in PHOTOGRAPHS]
