"""Run a comparison: batch by batch of images under each model, each record written completely or not at all."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
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
from vit_interactions.compare.csv_files import CsvFiles
from vit_interactions.compare.manifest import IMAGES, MANIFEST, ListedImage, read_manifest, run_checksum
from vit_interactions.compare.maps import explain_batch, warm_up
from vit_interactions.compare.models import ComparedModel
from vit_interactions.compare.plan import Plan
from vit_interactions.compare.records import RECORDS, Failure, Record, read_record, record_path, write_record
from vit_interactions.compare.scoring import choose_target, classify, score_maps
from vit_interactions.figures import prepare
from vit_interactions.images.objects import inside_object
from vit_interactions.images.reading import read_image
from vit_interactions.metrics import Case
from vit_interactions.utilities.console import errors as console
from vit_interactions.utilities.files import WriteError, check_not_folder, partial_path, remove_partials, sha256
from vit_interactions.utilities.json_files import DamagedFileError, write_json
from vit_interactions.utilities.locks import LOCK
from vit_interactions.utilities.processes import Process, broadcast
from vit_interactions.utilities.seeds import seed_of

LOG_EVERY = 60.0  # seconds


def run(plan: Plan, folder: Path, process: Process, *, resume: bool = False) -> None:
    """Measure the images of this process, and write the records into a folder.

    The first process also keeps the CSV files up to date; the last images of all processes may be missing in them.

    Args:
        plan: what to compare.
        folder: of the comparison; made if missing.
        process: takes every `process.world`-th batch of images.
        resume: keep the records of the same images and objects, unless they failed for a transient reason.

    Raises:
        ValueError: as in `check_folder`.
        UnsupportedModelError: a model whose patches cannot be found.
    """
    content = plan.describe()
    if process.first:
        check_folder(folder, content, resume=resume)
        folder.mkdir(parents=True, exist_ok=True)
        for part in (folder, folder / IMAGES, *(folder / RECORDS).glob("*")):
            remove_partials(part)
        write_json(folder / MANIFEST, content)
    files = CsvFiles(folder) if process.first else None
    broadcast(None)  # no process writes before the folder has been checked
    size = plan.batch_size
    # Batches are made before they are divided, so that they do not depend on the number of processes.
    batches = [plan.images[start : start + size] for start in range(0, len(plan.images), size)]
    mine = batches[process.rank :: process.world]
    # Copied once for all images if a model is in training mode.
    models = {name: replace(each, model=evaluated(each.model)) for name, each in plan.models.items()}
    with progress(sum(map(len, mine)) * len(models), process) as advance:
        for name, model in models.items():
            checksum = run_checksum(content, name)
            warm = False
            for batch in mine:
                paths = [record_path(folder, content["models"][name]["folder"], image.key) for image in batch]
                items = [
                    open_item(image, folder, path, checksum, resume=resume)
                    for image, path in zip(batch, paths, strict=True)
                ]
                to_measure = sum(not item.done for item in items)
                if to_measure:
                    warm = measure_batch(plan, model, items, warm)
                    if files is not None:
                        files.update()
                advance(len(batch), to_measure)


@dataclass
class WorkItem:
    """One image under one model, while it is measured.

    Attributes:
        image: to measure.
        path: of the record to write.
        record: what is known so far.
        done: True if a complete record has been written.
        file: of the image; None if it could not be read.
        case: what metrics need; None if the image could not be classified.
        without_object: why the case has no patches on the object.
    """

    image: ListedImage
    path: Path
    record: Record
    done: bool = False
    file: Path | None = None
    case: Case | None = None
    without_object: ValueError | None = None


def open_item(image: ListedImage, folder: Path, path: Path, run_sha256: str, *, resume: bool) -> WorkItem:
    """Start the record of an image, and find out whether an earlier one has the same origin.

    Args:
        image: to measure.
        folder: of the comparison.
        path: of the record.
        run_sha256: from `run_checksum`.
        resume: keep an earlier record.
    """
    mask = None
    if image.mask is not None:
        with suppress(OSError, ValueError):  # reported by the metrics that need it
            mask = sha256(image.mask)
    boxes = image.as_json()["boxes"]
    item = WorkItem(image, path, Record({"boxes": boxes, "mask": mask, "sha256": None, "run": run_sha256}))
    earlier = earlier_record(path) if resume else None
    with failures_recorded(item.record):
        item.file = image.write_to(folder)
        item.record.origin["sha256"] = sha256(item.file)
        if earlier is not None and earlier.origin == item.record.origin:
            item.done = not any(failure.transient for failure in earlier.failures)
    return item


def earlier_record(path: Path) -> Record | None:
    """Read the record of an earlier run; None if there is none, or a damaged one, which is reported.

    Raises:
        ValueError: a folder instead of a file; it is not removed.
    """
    for file in (path, path.with_suffix(".npz")):
        check_not_folder(file)
    try:
        return read_record(path, arrays=False)
    except DamagedFileError as error:
        console.print(f"measuring again: {error.problem}", soft_wrap=True)
        return None


def measure_batch(plan: Plan, model: ComparedModel, items: Sequence[WorkItem], warm: bool) -> bool:
    """Explain the images of a batch at once, and write each record as soon as it is measured.

    Images that are done are explained with the others, because the last digits of a map may depend on the batch.

    Returns:
        True if the model has been warmed up; `warm` is the value before.
    """
    for item in items:
        classify_item(plan, model, item)
    cases = [item.case for item in items if item.case is not None]
    classified = [item for item in items if item.case is not None]
    if any(not item.done for item in classified):
        inputs, layout = torch.cat([case.inputs for case in cases]), cases[0].layout
        records = [item.record for item in classified]
        if not warm:
            warm_up(model.model, inputs[:1], records[0], layout, plan.settings)
        explain_batch(model.model, inputs, records, layout, plan.settings)
        warm = True
        for item, case in zip(classified, cases, strict=True):
            if not item.done:
                score_maps(item.record, case, plan.metrics, plan.settings, item.without_object)
                write_record(item.path, item.record)
                item.done = True
    for item in items:
        if not item.done:
            write_record(item.path, item.record)
    return warm


def classify_item(plan: Plan, model: ComparedModel, item: WorkItem) -> None:
    """Read an image and run the model on it; failures are recorded."""
    if item.file is None:
        return
    image, record, settings = item.image, item.record, plan.settings
    with failures_recorded(record):
        pixels = read_image(item.file)
        record.size = pixels.size
        prepared = prepare(pixels, model.model)
        target = choose_target(settings.target, image.boxes)
        case = classify(model, prepared, record, target, settings.output)
        inside = None
        try:
            inside = inside_object(prepared, case.layout, image.boxes, image.mask, record.target)
        except ValueError as error:  # reported by the metrics that need it
            item.without_object = error
        seed = seed_of(plan.seed, int(record.origin["sha256"][:15], 16))
        item.case = replace(case, inside=inside, seed=seed)


@contextmanager
def failures_recorded(record: Record) -> Iterator[None]:
    """Record any exception as the failure of the image."""
    try:
        yield
    except (UnsupportedModelError, WriteError):
        raise
    except Exception as error:
        record.failures = [Failure.of(error)]


def temporary_folder(process: Process, *, resume: bool) -> Path:
    """Make a folder for temporary results.

    Raises:
        ValueError: a resumed comparison, or several processes, which need a shared folder.
    """
    if resume or process.world > 1:
        raise ValueError("`out` must be a folder to resume a comparison or to run several processes, got None.")
    return Path(tempfile.mkdtemp(prefix="comparison-"))


def check_folder(folder: Path, content: dict[str, Any], *, resume: bool) -> None:
    """Check that a comparison may be written to a folder.

    Args:
        folder: to write to.
        content: of the manifest.
        resume: allow a folder with the same comparison.

    Raises:
        ValueError: a folder with other content; a comparison without `resume`, or one that was started with other
            settings, models, devices or package versions, whose results must not be mixed.
    """
    earlier = read_manifest(folder) if folder.exists() else None
    if earlier is None:
        unfinished = {LOCK, partial_path(folder / MANIFEST).name}
        if folder.exists() and not {path.name for path in folder.iterdir()} <= unfinished:
            raise ValueError(
                f"`out` must be an empty folder or that of a comparison, got {folder} with other content. Choose "
                "another folder."
            )
        return
    if not resume:
        raise ValueError(
            f"`out` must be a new folder, got {folder}, which has a comparison: resume it (--resume), or choose "
            "another folder."
        )
    for part in ("settings", "models", "versions"):
        difference = first_difference(earlier.get(part), content[part])
        if difference:
            raise ValueError(
                f"`out` {folder} has a comparison that was started with other {part}: {difference}. "
                f"Resume it with the same {part}, or choose another folder."
            )


def first_difference(earlier: Any, now: Any) -> str:
    """Describe the first difference of two JSON contents; empty if they are equal.

    Example:
        >>> first_difference({"alpha": 0.1, "seed": 0}, {"alpha": 0.2, "seed": 0})
        'alpha was 0.1, now is 0.2'
    """
    if not isinstance(earlier, dict) or not isinstance(now, dict):
        return "" if earlier == now else f"was {json.dumps(earlier)}, now is {json.dumps(now)}"
    for name in earlier | now:
        if name not in now:
            return f"{name} was removed"
        if name not in earlier:
            return f"{name} was added"
        difference = first_difference(earlier[name], now[name])
        if difference:
            return f"{name} {difference}"
    return ""


@contextmanager
def progress(total: int, process: Process) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of the first process: a bar on a terminal or in a notebook, one line per minute in a log.

    Args:
        total: images to do.
        process: whose progress this is.

    Yields:
        A function to call with the number of images that are done, and how many of them were measured now.
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
        started = reported = time.monotonic()
        measured = 0  # the others took no time
        whose = f" (the first of {process.world} processes)" if process.world > 1 else ""

        def advance(done: int, measured_now: int) -> None:
            nonlocal reported, measured
            bar.advance(task, done)
            measured += measured_now
            now, all_done = time.monotonic(), bar.tasks[0].completed
            if process.first and logged and measured and now - reported >= LOG_EVERY:
                reported = now
                left = timedelta(seconds=round((now - started) / measured * (total - all_done)))
                console.print(f"compared {all_done:g} of {total}{whose}, about {left} left", soft_wrap=True)

        yield advance
