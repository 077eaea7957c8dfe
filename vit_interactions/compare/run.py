"""Run a comparison: batch by batch of photographs under each model, each unit whole or not there at all."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.compare.manifest import read_manifest, run_checksum
from vit_interactions.compare.maps import explain_batch, warm_up
from vit_interactions.compare.plan import Picture, Plan
from vit_interactions.compare.scoring import Seen, Subject, look, measure
from vit_interactions.compare.units import (
    MANIFEST,
    PICTURES,
    UNITS,
    Failure,
    Unit,
    read_unit,
    write_unit,
)
from vit_interactions.figures import prepare
from vit_interactions.images.reading import read_image
from vit_interactions.utilities.console import errors as console
from vit_interactions.utilities.files import partial_path, refuse_folder, remove_partials, sha256, write_json
from vit_interactions.utilities.json_files import DamagedFileError
from vit_interactions.utilities.locks import LOCK
from vit_interactions.utilities.processes import Process, broadcast
from vit_interactions.utilities.seeds import seed_of
from vit_interactions.utilities.text import printable
from vit_interactions.utilities.versions import versions
from vit_interactions.utilities.writing import WriteError

PACKAGES = ("pandas", "scipy", "torchvision")
LOG_EVERY = 60.0  # seconds


def run(plan: Plan, folder: Path, process: Process, *, resume: bool = False) -> None:
    """Measure this process's share of the photographs, and write the results below a folder.

    Args:
        plan: what to compare.
        folder: of the comparison; made if missing.
        process: takes each `process.world`-th batch of photographs.
        resume: keep what is there of the same photographs and objects, unless it failed for a reason that may have
            gone.

    Raises:
        ValueError: as of `check_folder`.
        UnsupportedModelError: a model whose patches cannot be told.
    """
    models = plan.describe_models()
    content = manifest(plan, models)
    checksums = {name: run_checksum(content, name) for name in models}
    if process.first:
        check_folder(folder, content, resume=resume)
        folder.mkdir(parents=True, exist_ok=True)
        for part in (folder, folder / PICTURES, *(folder / UNITS).glob("*")):
            remove_partials(part)
        write_json(folder / MANIFEST, content)
    broadcast(None)  # nobody writes before the folder has been checked
    size = plan.batch_size
    # Batches are made before they are shared out: the same ones for any number of processes.
    batches = [plan.pictures[start : start + size] for start in range(0, len(plan.pictures), size)]
    mine = batches[process.rank :: process.world]
    # Once for all images: a model in training mode is measured as a copy.
    plan = replace(
        plan, subjects={key: replace(each, model=evaluated(each.model)) for key, each in plan.subjects.items()}
    )
    work = [(name, batch) for name in plan.subjects for batch in mine]
    warm: set[str] = set()
    with progress(sum(len(batch) for _, batch in work), process) as advance:
        for name, batch in work:
            units = folder / UNITS / models[name]["folder"]
            jobs = [begin(picture, folder, units, checksums[name], resume=resume) for picture in batch]
            fresh = sum(not job.settled for job in jobs)
            work_off(plan, name, jobs, warm)
            advance(len(batch), fresh)


@dataclass
class Job:
    """One photograph under one model.

    Attributes:
        picture: the photograph.
        file: of the photograph; None where it could not be read.
        path: of the unit to write.
        unit: what is known of it.
        settled: whether the unit is there already.
    """

    picture: Picture
    file: Path | None
    path: Path
    unit: Unit
    settled: bool = False


def begin(picture: Picture, folder: Path, units: Path, run_sha256: str, *, resume: bool) -> Job:
    """Find out what a unit is made from, and whether an earlier one was made from the same.

    Args:
        picture: to measure.
        folder: of the comparison.
        units: folder of the model's units.
        run_sha256: from `run_checksum`.
        resume: keep an earlier unit.
    """
    path = units / f"{picture.key}.json"
    job = Job(picture, None, path, Unit({**picture.objects(), "sha256": None, "run": run_sha256}))
    earlier = earlier_unit(path) if resume else None
    with written_down(job):
        job.file = picture.write_to(folder)
        job.unit.origin["sha256"] = sha256(job.file)
        if earlier is not None and earlier.origin == job.unit.origin:
            job.settled = not any(failure.chance for failure in earlier.failures)
    return job


def earlier_unit(path: Path) -> Unit | None:
    """Read a unit of an earlier run; None where there is none, or a damaged one, which is reported.

    Raises:
        ValueError: a folder where a file of the unit belongs, which is not removed.
    """
    for file in (path, path.with_suffix(".npz")):
        refuse_folder(file)
    try:
        return read_unit(path)
    except DamagedFileError as error:
        console.print(printable(f"measuring again: {error.problem}"), markup=False, soft_wrap=True)
        return None


def work_off(plan: Plan, name: str, jobs: Sequence[Job], warm: set[str]) -> None:
    """Explain the photographs of a batch at once, and write each unit as soon as it is measured.

    Those that are settled are explained with the others, since the last digits of a map may depend on the batch. Models
    that are not `warm` explain once for nothing before.
    """
    if all(job.settled for job in jobs):
        return
    subject = plan.subjects[name]
    looked = [(job, seen) for job in jobs if (seen := look_at(plan, subject, job)) is not None]
    if any(not job.settled for job, _ in looked):
        inputs = torch.cat([seen.inputs for _, seen in looked])
        targets = [seen.view.target for _, seen in looked]
        layout = looked[0][1].view.layout
        if name not in warm:
            warm_up(subject.model, inputs, targets, layout, plan.settings)
            warm.add(name)
        found = explain_batch(subject.model, inputs, targets, layout, plan.settings)
        for (job, seen), maps in zip(looked, found, strict=True):
            if not job.settled:
                seed = seed_of(plan.seed, int(job.unit.origin["sha256"][:15], 16))
                findings = measure(subject, seen, maps, plan.settings, plan.metrics, seed)
                write_unit(job.path, replace(job.unit, **vars(findings), view=seen.view.as_json()))
                job.settled = True
    for job in jobs:
        if not job.settled:
            write_unit(job.path, job.unit)


def look_at(plan: Plan, subject: Subject, job: Job) -> Seen | None:
    """Show a photograph to the model; None if it cannot be read or classified."""
    seen = None
    if job.file is not None:
        with written_down(job):
            image = read_image(job.file)
            job.unit.size = list(image.size)
            photograph = prepare(image, subject.model)
            seen = look(
                subject,
                photograph,
                job.picture.boxes,
                job.picture.mask,
                plan.settings.target,
                plan.settings.output,
            )
    return seen


@contextmanager
def written_down(job: Job) -> Iterator[None]:
    """Write down what goes wrong: a picture that cannot be read or classified is one less, whatever was raised."""
    try:
        yield
    except (UnsupportedModelError, WriteError):
        raise
    except Exception as error:
        job.unit.failures = [Failure.of(error)]


def temporary_folder(process: Process, *, resume: bool) -> Path:
    """Make a folder for results that nobody wants to keep.

    Raises:
        ValueError: results that are resumed, or of several processes, which must have a folder that all see.
    """
    if resume or process.world > 1:
        raise ValueError("`out` must be a folder when a comparison is resumed or made by several processes.")
    return Path(tempfile.mkdtemp(prefix="comparison-"))


def check_folder(folder: Path, content: dict[str, Any], *, resume: bool) -> None:
    """Check that a comparison may be written to a folder.

    Args:
        folder: where it shall go.
        content: of its manifest.
        resume: whether it may go on with what is there.

    Raises:
        ValueError: a folder that holds something else; a comparison that is not to be resumed, or that was begun with
            other settings, models, devices or versions of packages: results of both would stand in one table.
    """
    earlier = read_manifest(folder) if folder.exists() else None
    if earlier is None:
        unfinished = {LOCK, partial_path(folder / MANIFEST).name}
        if folder.exists() and not {path.name for path in folder.iterdir()} <= unfinished:
            raise ValueError(f"`out` {folder} holds something that is no comparison; choose another folder.")
        return
    if not resume:
        raise ValueError(f"`out` {folder} holds a comparison: resume it (--resume), or choose another folder.")
    for part in ("settings", "models", "versions"):
        difference = first_difference(earlier.get(part), content[part])
        if difference:
            raise ValueError(
                f"`out` {folder} holds a comparison that was begun otherwise: {part} {difference}. "
                "Resume it with what it was begun with, or choose another folder."
            )


def first_difference(earlier: Any, now: Any) -> str:
    """Word where two contents of JSON differ first; empty if they do not.

    Example:
        >>> first_difference({"alpha": 0.1, "seed": 0}, {"alpha": 0.2, "seed": 0})
        'alpha was 0.1, but is 0.2'
    """
    if not isinstance(earlier, dict) or not isinstance(now, dict):
        return "" if earlier == now else f"was {json.dumps(earlier)}, but is {json.dumps(now)}"
    for name in earlier | now:
        if name not in now:
            return f"had {name}, but have it no more"
        if name not in earlier:
            return f"did not have {name}, but have it now"
        difference = first_difference(earlier[name], now[name])
        if difference:
            return f"{name} {difference}"
    return ""


def manifest(plan: Plan, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the first file of a comparison says; it is written first, so that unfinished ones can be read."""
    content: dict[str, Any] = {
        "settings": plan.describe(),
        "versions": {**versions(), **{package: version(package) for package in PACKAGES}},
        "models": models,
        "photographs": [picture.as_json() for picture in plan.pictures],
        "notes": list(plan.notes),
    }
    return content


@contextmanager
def progress(total: int, process: Process) -> Iterator[Callable[[int, int], None]]:
    """Show how far the first process is: on a terminal or in a notebook as a bar, in a log by a line a minute.

    Args:
        total: photographs to do.
        process: whose progress this is.

    Yields:
        What to tell of photographs: how many are done, and how many of them were measured now.
    """
    columns = (
        TextColumn("comparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    seen = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    logged = not seen and not console.is_jupyter
    with Progress(*columns, console=console, disable=not (process.first and seen)) as bar:
        task = bar.add_task("comparing", total=total)
        started = said = time.monotonic()
        measured = 0  # the others took no time
        whose = f" (the first of {process.world} processes)" if process.world > 1 else ""

        def advance(done: int, fresh: int) -> None:
            nonlocal said, measured
            bar.advance(task, done)
            measured += fresh
            now, all_done = time.monotonic(), bar.tasks[0].completed
            if process.first and logged and measured and now - said >= LOG_EVERY:
                said = now
                left = timedelta(seconds=round((now - started) / measured * (total - all_done)))
                console.print(f"compared {all_done:g} of {total}{whose}, about {left} left", soft_wrap=True)

        yield advance
