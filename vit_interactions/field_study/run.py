"""Run a study: image by image, each written completely or not at all."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.compare.models import ComparedModel
from vit_interactions.compare.run import first_difference
from vit_interactions.field_study.measure import measure_image
from vit_interactions.field_study.objects import StudyImage
from vit_interactions.field_study.rows import Measured, Rows
from vit_interactions.functional.null_models import derangements
from vit_interactions.images.prepared import prepare
from vit_interactions.images.reading import IMAGE_ERRORS, read_image
from vit_interactions.utilities.files import WriteError, partial_path, remove_partials
from vit_interactions.utilities.json_files import read_json, write_json
from vit_interactions.utilities.locks import LOCK
from vit_interactions.utilities.seeds import seed_of
from vit_interactions.utilities.text import describe_error
from vit_interactions.utilities.versions import versions

MANIFEST = "study.json"
DRAWS = 10  # other images whose boxes are tried per image
FEWEST = 2  # images; one has no other image


@dataclass(frozen=True)
class StudySettings:
    """The settings of a study.

    Attributes:
        alphas: fractions of all patch pairs that count as relevant.
        beta: fraction of the patches that are dropped as indiscriminative.
        seed: of all random numbers.
    """

    alphas: tuple[float, ...] = (0.10,)
    beta: float = 0.20
    seed: int = 0


@dataclass
class StudyResult:
    """The images that were measured and those that failed.

    Attributes:
        measured: number of the image -> its values.
        failed: image -> reason.
    """

    measured: dict[int, Measured]
    failed: dict[str, str] = field(default_factory=dict)


def study_images(
    model: nn.Module, images: Sequence[StudyImage], settings: StudySettings, out: Path, *, resume: bool = False
) -> Iterator[StudyResult]:
    """Measure the claims about each image under all null models.

    Args:
        model: the model, in evaluation mode on its device.
        images: from `find_objects`, at least two.
        settings: of the study.
        out: output folder; it must exist.
        resume: keep the rows of the same study.

    Yields:
        The result so far, after each image.

    Raises:
        ValueError: fewer than two images, or a folder with other content or another study.
        WriteError: the disk is full, or `out` is not writable.
    """
    if len(images) < FEWEST:
        raise ValueError(
            f"`images` must contain at least {FEWEST} with some patches on the object and some not, got {len(images)}."
        )
    content = {
        "settings": {**asdict(settings), "alphas": list(settings.alphas), "draws": DRAWS},
        "model": ComparedModel(model, named=False).describe(),
        "versions": versions(),
        "images": [image.as_json() for image in images],
    }
    check_study_folder(out, content, resume=resume)
    remove_partials(out)
    write_json(out / MANIFEST, content)
    rows = Rows(out, images, settings.alphas)
    others = derangements(len(images), DRAWS, torch.Generator().manual_seed(settings.seed))
    result = StudyResult(rows.measured)
    for number, image in enumerate(images):
        if number not in rows.measured:
            try:
                values = measure_image(
                    model,
                    prepare(read_image(image.path), model).input.unsqueeze(0),
                    image.inside,
                    [images[other].inside for other in others[:, number].tolist()],
                    alphas=settings.alphas,
                    beta=settings.beta,
                    seed=seed_of(settings.seed, int(image.sha256[:15], 16)),
                )
                rows.add(number, values)
            except (UnsupportedModelError, WriteError):
                raise
            except IMAGE_ERRORS as error:
                result.failed[str(image.path)] = describe_error(error)
        yield result


def check_study_folder(folder: Path, content: dict[str, Any], *, resume: bool) -> None:
    """Check that a study may be written to a folder.

    Raises:
        ValueError: a folder with other content; a study without `resume`, or one with other settings, another model,
            other images or other package versions, whose rows must not be mixed.
    """
    earlier = read_json(folder / MANIFEST, "Restore the file, or choose another folder.")
    if earlier is None:
        present = {path.name for path in folder.iterdir()}
        if not present <= {LOCK, partial_path(folder / MANIFEST).name}:
            raise ValueError(f"`out` must be an empty folder or that of a study, got {folder} with other files.")
    elif not resume:
        raise ValueError(f"`out` must be a new folder, got {folder}, which has a study. Resume it (--resume).")
    else:
        for part, now in content.items():
            if earlier.get(part) != now:
                change = first_difference(earlier.get(part), now) if part != "images" else ""
                raise ValueError(
                    f"`out` must be a folder of the same study, got {folder} with other {part}"
                    f"{change and f': {change}'}. Choose another folder."
                )
