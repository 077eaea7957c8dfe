"""Run a comparison: one photograph under one model after the other, each whole or not there at all."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.observe import evaluating
from vit_interactions.compare.measure import Subject, measure
from vit_interactions.compare.plan import Picture, Plan
from vit_interactions.compare.units import (
    MANIFEST,
    Failure,
    Unit,
    read_unit,
    unit_path,
    write_json,
    write_unit,
)
from vit_interactions.figures import load_photograph, prepare
from vit_interactions.photographs import sha256, versions
from vit_interactions.training.process import Process, share
from vit_interactions.training.seeds import seed_of

PACKAGES = ("pandas", "scipy", "torchvision")
console = Console(stderr=True, highlight=False)


def run(plan: Plan, folder: Path, process: Process, *, resume: bool = False) -> None:
    """Measure this process's share of the photographs, and write the results below a folder.

    Args:
        plan: what to compare.
        folder: of the comparison; made if missing.
        process: takes each `process.world`-th photograph.
        resume: keep what is there of the same settings, weights, boxes and photographs, unless it failed for a reason
            that may have gone.

    Raises:
        ValueError: a folder that holds something else, or a comparison that is not to be resumed.
        UnsupportedModelError: a model whose patches cannot be told.
    """
    models = plan.describe_models()
    if process.first:
        check_folder(folder, resume=resume)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MANIFEST, manifest(plan, models))
    share(None)  # nobody writes before the folder has been checked
    mine = list(plan.pictures)[process.rank :: process.world]
    with ExitStack() as borrowed:
        for subject in plan.subjects.values():
            borrowed.enter_context(evaluating(subject.model))
        work = [(name, subject, picture) for name, subject in plan.subjects.items() for picture in mine]
        for name, subject, picture in track(work, process):
            path = unit_path(folder, models[name]["folder"], picture.key)
            origin = {"settings": models[name]["settings"], "boxes": picture.as_json()["boxes"], "sha256": None}
            earlier = read_unit(path) if resume else None
            unit = measure_picture(plan, subject, picture, folder, Unit(origin), earlier)
            if unit is not earlier:
                write_unit(path, unit)


def measure_picture(
    plan: Plan, subject: Subject, picture: Picture, folder: Path, unit: Unit, earlier: Unit | None
) -> Unit:
    """Fill a unit, or return the earlier one if it was made from the same; what goes wrong is written down."""
    try:
        file = picture.write_to(folder)
        unit.origin["sha256"] = sha256(file)
        if earlier is not None and earlier.origin == unit.origin and not any(f.chance for f in earlier.failures):
            return earlier
        image = load_photograph(file)
        unit.size = list(image.size)
        seed = seed_of(plan.seed, int(unit.origin["sha256"][:15], 16))
        photograph = prepare(image, subject.model)
        found = measure(subject, photograph, picture.boxes, plan.settings, plan.metrics, seed)
        unit.view, unit.values = found.view.as_json(), found.values
        unit.failures, unit.arrays = found.failures, found.arrays
    except UnsupportedModelError:
        raise
    # A picture that cannot be read or classified is one picture less, not the end, whatever the model raises.
    except Exception as error:
        unit.failures = [Failure.of(error)]
    return unit


def temporary_folder(process: Process, *, resume: bool) -> Path:
    """Make a folder for results that nobody wants to keep.

    Raises:
        ValueError: results that are resumed, or of several processes, which must have a folder that all see.
    """
    if resume or process.world > 1:
        raise ValueError("`out` must be a folder when a comparison is resumed or made by several processes.")
    return Path(tempfile.mkdtemp(prefix="comparison-"))


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise ValueError unless a comparison may be written to a folder."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`out` must be a folder, but {folder} is a file.")
    if (folder / MANIFEST).exists():
        if not resume:
            raise ValueError(f"`out` {folder} holds a comparison: resume it (--resume), or choose another folder.")
    elif folder.exists() and any(path.name != f".{MANIFEST}.partial" for path in folder.iterdir()):
        raise ValueError(f"`out` {folder} holds something that is no comparison; choose another folder.")


def manifest(plan: Plan, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the first file of a comparison says; it is written first, so that unfinished ones can be read."""
    return {
        "settings": plan.describe(),
        "versions": {**versions(), **{package: version(package) for package in PACKAGES}},
        "models": models,
        "photographs": [picture.as_json() for picture in plan.pictures],
    }


def track(work: list[Any], process: Process) -> Iterator[Any]:
    """Hand out work, and show on a terminal or in a notebook how far it is, in the first process."""
    columns = (
        TextColumn("comparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    seen = process.first and (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None))
    with Progress(*columns, console=console, disable=not seen) as progress:
        yield from progress.track(work)
