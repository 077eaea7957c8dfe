"""Run a study: image by image, each written completely or not at all."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from vit_interactions.compare.models import ComparedModel
from vit_interactions.compare.study_folder import open_study
from vit_interactions.field_study.measure import measure_image
from vit_interactions.field_study.objects import StudyImage
from vit_interactions.field_study.rows import Measured, Rows
from vit_interactions.functional.null_models import derangements
from vit_interactions.images.failures import recorded_failure
from vit_interactions.images.prepared import prepare
from vit_interactions.images.reading import read_image
from vit_interactions.utilities.seeds import seed_of
from vit_interactions.utilities.versions import versions

DRAWS = 10  # other images whose boxes are tried per image
FEWEST = 2  # images; one has no other image


@dataclass(frozen=True)
class StudySettings:
    """The settings of a study.

    Attributes:
        alphas: fractions of all patch pairs that count as relevant.
        beta: fraction of the patches that are dropped as indiscriminative.
        seed: of all random numbers.
        coverage: fraction of a patch's relevant patches that its window contains at least; see `adaptive_windows`.
        exclude_sinks: leave out attention sinks.
    """

    alphas: tuple[float, ...] = (0.10,)
    beta: float = 0.20
    seed: int = 0
    coverage: float = 1.0
    exclude_sinks: bool = False


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
    open_study(out, content, resume=resume)
    rows = Rows(out, images, settings.alphas)
    others = derangements(len(images), DRAWS, torch.Generator().manual_seed(settings.seed))
    result = StudyResult(rows.measured)
    for number, image in enumerate(images):
        if number not in rows.measured:
            with recorded_failure(result.failed, image.path):
                values = measure_image(
                    model,
                    prepare(read_image(image.path), model).input.unsqueeze(0),
                    image.inside,
                    [images[other].inside for other in others[:, number].tolist()],
                    alphas=settings.alphas,
                    beta=settings.beta,
                    coverage=settings.coverage,
                    exclude_sinks=settings.exclude_sinks,
                    seed=seed_of(settings.seed, int(image.sha256[:15], 16)),
                )
                rows.add(number, values)
        yield result
