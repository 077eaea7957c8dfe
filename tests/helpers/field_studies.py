"""Small studies of responsive fields."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tests.helpers.noise import write_noise
from vit_interactions.field_study.measure import CLAIMS, CONTROLS
from vit_interactions.field_study.objects import StudyImage
from vit_interactions.images.boxes import ObjectBox
from vit_interactions.utilities.files import sha256

GRID = (4, 4)


def study_of_noise(folder: Path, count: int = 3) -> list[StudyImage]:
    """Create images of noise of 64 x 64 pixels, each with an object on another row of patches."""
    images = []
    for number, path in enumerate(write_noise(folder, {f"image{n}": (64, 64) for n in range(count)})):
        inside = torch.zeros(GRID, dtype=torch.bool)
        inside[number % 4] = True
        images.append(StudyImage(path, sha256(path), (ObjectBox(0, 0, 1, 1),), inside))
    return images


def values(alphas: tuple[float, ...], **claims: float) -> dict[tuple[float, str], dict[str, float]]:
    """Return the values of one image, the same under all controls."""
    common: Mapping[str, float] = {**dict.fromkeys(CLAIMS, 0.25), **claims}
    return {(alpha, control): dict(common) for alpha in alphas for control in CONTROLS}
