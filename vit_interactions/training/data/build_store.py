"""Compute the windows of every picture of a dataset once, and keep them in a store.

Every shard is computed by itself and put in its place when it is whole. So a build that is killed at any moment loses
at most the shard each of its processes was at, and is resumed, by any number of processes, to the same bytes.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_interactions.training.data.images import image_names, read_sample
from vit_interactions.training.data.window_store import (
    LARGEST_SIDE,
    MANIFEST,
    NAMES,
    UNREADABLE,
    Manifest,
    Records,
    digest,
    encode_names,
    pack,
    read_manifest,
    read_names,
    shard_name,
)
from vit_interactions.training.interruption import ignore_signals
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.checks import check_index
from vit_interactions.utilities.checksum import architecture_checksum, checksum
from vit_interactions.utilities.files import PARTIAL, refuse_folder, write_whole
from vit_interactions.utilities.locks import LOCK

SHARD = 1024  # pictures: what a process loses at most when it is killed


@dataclass
class BuildProgress:
    """How far this process has come.

    Attributes:
        total: pictures that are its to do, those of an earlier run included.
        done: pictures whose windows are computed, those of an earlier run included.
        failed: number of a picture that could not be read, now or in an earlier run -> its name and the reason.
        damaged: files of an earlier run that are made again because they were damaged.
    """

    total: int
    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def build_window_store(
    dataset: Any,
    teacher: WindowTeacher,
    out: Path,
    *,
    batch_size: int = 64,
    workers: int = 4,
    resume: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Iterator[BuildProgress]:
    """Compute the windows of all pictures of a dataset, each squashed as a whole to the size of the teacher's input.

    Several processes do it together without a word between them: shard n is the work of process n mod `world`.

    Args:
        dataset: of timm or torchvision, indexed by picture, without a transform.
        teacher: on the device to compute on.
        out: folder of the store; made if missing.
        batch_size: pictures that the teacher sees at a time.
        workers: processes that read pictures; 0: this one.
        resume: go on with a store of the same manifest; its shards are kept, unless they are damaged.
        rank: number of this process.
        world: number of processes.

    Yields:
        The report so far, the same object, at first and after each batch. A picture that cannot be read is reported,
        gets a record without windows, and is left out in training.

    Raises:
        ValueError: a folder that is something else, a store that is there already or of something else, a grid larger
            than 255 patches a side, a dataset without pictures or with a transform, `rank` outside [0, `world`).
        UnsupportedModelError: a teacher without attention from every patch to every patch.
    """
    if not 0 <= check_index("rank", rank) < check_index("world", world):
        raise ValueError(f"`rank` must lie in [0, {world - 1}], for `world` {world}, but got {rank}.")
    if check_index("batch_size", batch_size) < 1:
        raise ValueError(f"`batch_size` must be >= 1, but got {batch_size}.")
    names = image_names(dataset)
    view = transform_options(teacher)
    manifest = make_manifest(names, teacher, view)
    mine = range(rank, manifest.shards, world)
    open_folder(out, manifest, names, mine, resume=resume, rank=rank, world=world)
    report = BuildProgress(total=sum(len(manifest.shard_images(shard)) for shard in mine))
    _repair_names(out, manifest, names, report, rank)
    missing = _missing_shards(out, manifest, names, mine, report)
    report.done = report.total - sum(len(manifest.shard_images(shard)) for shard in missing)
    yield report
    batches = _batches(dataset, create_transform(**view), manifest, missing, batch_size, workers)
    for shard in missing:
        records: list[Records] = []
        while len(records) < len(manifest.shard_images(shard)):
            images, numbers, reasons = next(batches)
            records.extend(_records(teacher, images, reasons))
            report.failed.update({n: f"{names[n]}: {why}" for n, why in zip(numbers, reasons, strict=True) if why})
            report.done += len(numbers)
            if len(records) == len(manifest.shard_images(shard)):
                content = np.stack(records).tobytes()
                _put(out / shard_name(shard), content + manifest.checksum(shard, content), rank)
            yield report


def transform_options(teacher: WindowTeacher) -> dict[str, Any]:
    """Return the arguments of timm's `create_transform` for whole pictures as the teacher is to see them."""
    config: dict[str, Any] = resolve_model_data_config(teacher.model)  # type: ignore[no-untyped-call]
    built_for = getattr(getattr(teacher.model, "patch_embed", None), "img_size", None)
    size = config["input_size"] if built_for is None else (config["input_size"][0], *built_for)
    kept = {key: config[key] for key in ("mean", "std", "interpolation")}
    return {"input_size": size, "is_training": False, "crop_pct": 1.0, "crop_mode": "squash", **kept}


def make_manifest(names: list[str], teacher: WindowTeacher, view: dict[str, Any]) -> Manifest:
    """Say what the windows will be of.

    Raises:
        ValueError: no pictures, or a grid of more patches a side than a byte counts.
    """
    if not names:
        raise ValueError("`dataset` must hold pictures, but is empty.")
    size = (int(view["input_size"][1]), int(view["input_size"][2]))
    grid = teacher.grid(size)
    if max(grid) > LARGEST_SIDE:
        raise ValueError(
            f"`teacher` must have at most {LARGEST_SIDE} patches a side, whose bounds are bytes, but got "
            f"{grid[0]} x {grid[1]}."
        )
    return Manifest(
        teacher=checksum(teacher.model),
        architecture=architecture_checksum(teacher.model),
        alpha=float(teacher.alpha),
        beta=float(teacher.beta),
        grid=grid,
        image_size=size,
        mean=tuple(view["mean"]),
        std=tuple(view["std"]),
        interpolation=view["interpolation"],
        pictures=len(names),
        names=digest(names),
        shard=SHARD,
    )


def open_folder(
    out: Path, manifest: Manifest, names: list[str], mine: range, *, resume: bool, rank: int, world: int
) -> None:
    """Make the folder of a store, or check that it is this one's, and clear what a killed process left half written.

    Raises:
        ValueError: a folder of something else, or of this store without `resume`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob(f"*{PARTIAL}"):
        writer = path.name.removesuffix(PARTIAL).rpartition(".")[2]
        if writer.isdecimal() and int(writer) % world == rank:
            path.unlink(missing_ok=True)
    # Looked at before the manifest, which another process may be about to put there.
    others = sorted(
        path.name for path in out.iterdir() if path.name != NAMES and not path.name.endswith((PARTIAL, LOCK))
    )
    if not (out / MANIFEST).exists():
        if others:
            raise ValueError(f"`out` must be a new folder or a window store, but {out} holds {others[0]}.")
        _put(out / NAMES, gzip.compress(encode_names(names), mtime=0), rank)
        _put(out / MANIFEST, manifest.as_json().encode(), rank)
    found = read_manifest(out)
    if found != manifest:
        differ = (
            f"{name} is {getattr(found, name)} there and {getattr(manifest, name)} here"
            for name in vars(manifest)
            if getattr(found, name) != getattr(manifest, name)
        )
        raise ValueError(f"`out` {out} is a store of other windows: {'; '.join(differ)}. Choose another folder.")
    if not resume and any((out / shard_name(shard)).exists() for shard in mine):
        raise ValueError(f"`out` {out} has windows already: go on with `resume`, or choose another folder.")


def _repair_names(out: Path, manifest: Manifest, names: list[str], report: BuildProgress, rank: int) -> None:
    """Write the list of names again if it is damaged."""
    if read_names(out, manifest) is None:
        refuse_folder(out / NAMES)
        report.damaged.append(NAMES)
        _put(out / NAMES, gzip.compress(encode_names(names), mtime=0), rank)


def _missing_shards(
    out: Path, manifest: Manifest, names: list[str], mine: range, report: BuildProgress
) -> list[int]:
    """List the shards to compute, and report those that are damaged and the pictures that have no windows."""
    missing = []
    for shard in mine:
        records = manifest.read_shard(out, shard)
        if records is None:
            path = out / shard_name(shard)
            refuse_folder(path)
            report.damaged += [path.name] if path.exists() else []
            missing.append(shard)
            continue
        for place in np.flatnonzero(records[:, 0] == UNREADABLE).tolist():
            number = manifest.shard_images(shard)[place]
            report.failed[number] = (
                f"{names[number]}: could not be read in an earlier run. Remove {shard_name(shard)} and resume to try "
                "again."
            )
    return missing


def _put(path: Path, content: bytes, rank: int) -> None:
    write_whole(path, lambda file: file.write(content), rank)


class _Views(Dataset[tuple[Tensor, int, str]]):
    """Pictures as the teacher sees them, with their numbers and, in place of one that cannot be read, why."""

    def __init__(self, dataset: Any, transform: Any, size: tuple[int, ...]) -> None:
        self.dataset, self.transform, self.size = dataset, transform, size

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        try:
            image = self.transform(read_sample(self.dataset, index)[0])
        except (
            Exception
        ) as error:  # Decoders of broken files raise nearly anything: SyntaxError, struct.error, ...
            return torch.zeros(self.size, device="cpu"), index, str(error) or type(error).__name__
        return image, index, ""


def _batches(
    dataset: Any, transform: Any, manifest: Manifest, shards: list[int], batch_size: int, workers: int
) -> Iterator[tuple[Tensor, list[int], list[str]]]:
    """Read pictures in batches of which none is of two shards, so that each shard comes out the same by itself."""
    batches = [
        list(pictures[start : start + batch_size])
        for pictures in map(manifest.shard_images, shards)
        for start in range(0, len(pictures), batch_size)
    ]
    loader: DataLoader[Any] = DataLoader(
        _Views(dataset, transform, (len(manifest.mean), *manifest.image_size)),
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
    )
    for images, numbers, reasons in loader:
        yield images, numbers.tolist(), list(reasons)


def _records(teacher: WindowTeacher, images: Tensor, reasons: list[str]) -> Records:
    weight = next(teacher.model.parameters())
    field = teacher(images.to(weight.device, weight.dtype, non_blocking=True))
    records = pack(field.windows, field.dropped)
    records[[bool(reason) for reason in reasons]] = UNREADABLE
    return records
