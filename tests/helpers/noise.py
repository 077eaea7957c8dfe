"""Images of noise."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_noise(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> list[Path]:
    """Create a folder with a PNG of noise per name and (height, width); return the sorted files."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())
