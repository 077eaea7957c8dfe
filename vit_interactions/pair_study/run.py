"""Run a study of pairs: image by image, each written completely or not at all."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from vit_interactions.compare.models import ComparedModel
from vit_interactions.compare.study_folder import open_study
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.images.failures import recorded_failure
from vit_interactions.images.prepared import prepare
from vit_interactions.images.reading import read_image
from vit_interactions.pair_study.baselines import PASSES
from vit_interactions.pair_study.measure import PairRecord, PairSettings, measure_pairs
from vit_interactions.utilities.files import remove_partials, sha256
from vit_interactions.utilities.json_files import DamagedFileError, read_json, write_json
from vit_interactions.utilities.seeds import seed_of
from vit_interactions.utilities.text import printable
from vit_interactions.utilities.versions import versions

ROWS = "images"  # folder of one file per image


@dataclass
class PairStudy:
    """The images that were measured and those that failed.

    Attributes:
        records: name of the image -> what was measured.
        failed: image -> reason.
    """

    records: dict[str, PairRecord] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def study_pairs(
    model: nn.Module,
    images: Sequence[Path],
    methods: Sequence[ConfiguredMethod],
    settings: PairSettings,
    out: Path,
    *,
    resume: bool = False,
) -> Iterator[PairStudy]:
    """Measure the pairs of each image.

    Args:
        model: the classifier, in evaluation mode on its device.
        images: image files.
        methods: methods with a `pair_map`.
        settings: of the study.
        out: output folder; it must exist.
        resume: keep the images of the same study.

    Yields:
        The result so far, after each image.

    Raises:
        ValueError: a folder with other content or another study.
        UnsupportedModelError: see `measure_pairs`.
        WriteError: the disk is full, or `out` is not writable.
    """
    compared = ComparedModel(model, named=False)
    digests = {path: sha256(path, "image") for path in images}
    content = {
        "settings": asdict(settings),
        "baselines": list(PASSES),
        "methods": {method.name: method.describe() for method in methods},
        "model": compared.describe(),
        "versions": versions(),
        "images": [{"name": printable(path.name), "sha256": digest} for path, digest in digests.items()],
    }
    open_study(out, content, resume=resume)
    rows = out / ROWS
    rows.mkdir(exist_ok=True)
    remove_partials(rows)
    study = PairStudy()
    for number, (path, digest) in enumerate(digests.items()):
        file = rows / f"{number:05d}.json"
        record = earlier_record(file, digest)
        with recorded_failure(study.failed, path):
            if record is None:
                inputs = compared.batch_of(prepare(read_image(path), model))
                seed = seed_of(settings.seed, int(digest[:15], 16))
                record = measure_pairs(compared, inputs, methods, settings, seed)
                write_json(file, {"name": printable(path.name), "sha256": digest, **record.as_json()})
            study.records[printable(path.name)] = record
        yield study


def earlier_record(file: Path, digest: str) -> PairRecord | None:
    """Read the record of an image; None if there is none, or a damaged one, which is measured again."""
    try:
        content = read_json(file, "Delete the file.")
        return None if content is None or content["sha256"] != digest else PairRecord.from_json(content)
    except (DamagedFileError, KeyError, TypeError, ValueError, RuntimeError):
        return None
