"""Write masks as PNG files."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(path: Path, values: Any, mode: str | None = None, **options: Any) -> Path:
    """Save an array or image in a mode, with the options of Pillow; return its path."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values))
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if mode is None else image.convert(mode)).save(path, "PNG", **options)
    return path
