"""Compute the windows of every image of a dataset once, and keep them in a store.

Each shard is computed by itself, and renamed into place when it is complete. An interrupted build loses at most the
current shard of each process, and is resumed, by any number of processes, to the same bytes.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader

from vit_interactions.images.prepared import data_config
from vit_interactions.training.data.images import image_names
from vit_interactions.training.data.unreadable import TolerantDataset, TransformedImages, Unreadable
from vit_interactions.training.data.window_store import (
    LARGEST_SIDE,
    MANIFEST,
    NAMES,
    UNREADABLE,
    Manifest,
    Records,
    encode_names,
    names_checksum,
    pack,
    read_manifest,
    read_names,
    shard_name,
)
from vit_interactions.training.interruption import ignore_signals
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.checks import check_index
from vit_interactions.utilities.checksum import architecture_checksum, checksum
from vit_interactions.utilities.files import PARTIAL, check_not_folder, write_bytes
from vit_interactions.utilities.locks import LOCK

SHARD = 1024  # images; an interrupted process loses at most one shard


@dataclass
class BuildProgress:
    """The progress of one process of a build.

    Attributes:
        total: number of images of this process, including those of an earlier run.
        done: number of images with windows, including those of an earlier run.
        failed: index -> name and reason of each unreadable image, now or in an earlier run.
        damaged: files of an earlier run that are rebuilt because they were damaged.
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
    """Compute the windows of all images of a dataset, each resized as a whole to the teacher's input size.

    Several processes need no communication: shard n is computed by process n mod `world`.

    Args:
        dataset: of timm or torchvision, indexed by image, without a transform.
        teacher: on the device to compute on.
        out: folder of the store; created if missing.
        batch_size: images per forward pass of the teacher.
        workers: worker processes that load images; 0 to load in this process.
        resume: continue a store with the same manifest; its shards are kept unless they are damaged.
        rank: number of this process.
        world: number of processes.

    Yields:
        The progress, the same object each time, at first and after each batch. An unreadable image is reported, gets a
        record without windows, and is skipped in training.

    Raises:
        ValueError: a folder with other content, an existing store without `resume`, a store of other windows, a grid
            with more than 255 patches per side, a dataset without images or with a transform, or `rank` outside
            [0, `world`).
        UnsupportedModelError: a teacher without attention among all patches.
    """
    if not 0 <= check_index("rank", rank) < check_index("world", world):
        raise ValueError(f"`rank` must be in [0, {world - 1}] for `world` {world}, got {rank}.")
    if check_index("batch_size", batch_size) < 1:
        raise ValueError(f"`batch_size` must be >= 1, got {batch_size}.")
    names = image_names(dataset)
    options = transform_options(teacher)
    manifest = make_manifest(names, teacher, options)
    mine = range(rank, manifest.shards, world)
    open_folder(out, manifest, names, mine, resume=resume, rank=rank, world=world)
    progress = BuildProgress(total=sum(len(manifest.shard_images(shard)) for shard in mine))
    if read_names(out, manifest) is None:
        check_not_folder(out / NAMES)
        progress.damaged.append(NAMES)
        _write_names(out, names, rank)
    missing = _missing_shards(out, manifest, names, mine, progress)
    progress.done = progress.total - sum(len(manifest.shard_images(shard)) for shard in missing)
    yield progress
    images = TransformedImages(dataset, create_transform(**options))
    batches = _load(images, manifest, missing, batch_size, workers)
    for shard in missing:
        records: list[Records] = []
        while len(records) < len(manifest.shard_images(shard)):
            indices, (pixels, errors) = next(batches)
            records.extend(_compute_records(teacher, pixels, errors))
            failed = {
                i: f"{error.name}: {error.reason}" for i, error in zip(indices, errors, strict=True) if error
            }
            progress.failed.update(failed)
            progress.done += len(indices)
            if len(records) == len(manifest.shard_images(shard)):
                content = np.stack(records).tobytes()
                write_bytes(out / shard_name(shard), content + manifest.checksum(shard, content), rank)
            yield progress


def transform_options(teacher: WindowTeacher) -> dict[str, Any]:
    """Return the arguments of timm's `create_transform` that resize whole images to the teacher's input."""
    config = data_config(teacher.model)
    kept = {key: config[key] for key in ("input_size", "mean", "std", "interpolation")}
    return {"is_training": False, "crop_pct": 1.0, "crop_mode": "squash", **kept}


def make_manifest(names: list[str], teacher: WindowTeacher, options: dict[str, Any]) -> Manifest:
    """Describe the windows that are to be built.

    Raises:
        ValueError: no images, or a grid with more patches per side than fit a byte.
    """
    if not names:
        raise ValueError("`dataset` must have images, got none.")
    size = (int(options["input_size"][1]), int(options["input_size"][2]))
    grid = teacher.grid(size)
    if max(grid) > LARGEST_SIDE:
        raise ValueError(
            f"`teacher` must have at most {LARGEST_SIDE} patches per side, because bounds are stored as bytes, got "
            f"{grid[0]} x {grid[1]}."
        )
    return Manifest(
        teacher=checksum(teacher.model),
        architecture=architecture_checksum(teacher.model),
        alpha=float(teacher.alpha),
        beta=float(teacher.beta),
        coverage=float(teacher.coverage),
        exclude_sinks=teacher.exclude_sinks,
        grid=grid,
        image_size=size,
        mean=tuple(options["mean"]),
        std=tuple(options["std"]),
        interpolation=options["interpolation"],
        images=len(names),
        names=names_checksum(names),
        shard=SHARD,
    )


def open_folder(
    out: Path, manifest: Manifest, names: list[str], mine: range, *, resume: bool, rank: int, world: int
) -> None:
    """Create the folder of a store, or check that it has the same manifest; remove partial files of interrupted runs.

    Raises:
        ValueError: a folder with other content, or a store without `resume`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob(f"*{PARTIAL}"):
        writer = path.name.removesuffix(PARTIAL).rpartition(".")[2]
        if writer.isdecimal() and int(writer) % world == rank:
            path.unlink(missing_ok=True)
    # List the files before looking for the manifest, which another process may write at any moment.
    others = sorted(
        path.name for path in out.iterdir() if path.name != NAMES and not path.name.endswith((PARTIAL, LOCK))
    )
    if not (out / MANIFEST).exists():
        if others:
            raise ValueError(f"`out` must be a new folder or a window store, got {out} with {others[0]} in it.")
        _write_names(out, names, rank)
        write_bytes(out / MANIFEST, manifest.as_json().encode(), rank)
    found = read_manifest(out)
    if found != manifest:
        differ = (
            f"`{name}` is {getattr(found, name)} instead of {getattr(manifest, name)}"
            for name in vars(manifest)
            if getattr(found, name) != getattr(manifest, name)
        )
        raise ValueError(
            f"`out` must be a store of the same windows, got {out}: {'; '.join(differ)}. Choose another folder."
        )
    if not resume and any((out / shard_name(shard)).exists() for shard in mine):
        raise ValueError(
            f"`out` must be a new folder, got {out}, which has windows. Add `resume`, or choose another folder."
        )


def _missing_shards(
    out: Path, manifest: Manifest, names: list[str], mine: range, progress: BuildProgress
) -> list[int]:
    """List the shards to compute, and report damaged ones and images without windows."""
    missing = []
    for shard in mine:
        path = out / shard_name(shard)
        records = manifest.read_shard(out, shard)
        if records is None:
            check_not_folder(path)
            progress.damaged += [path.name] if path.exists() else []
            missing.append(shard)
            continue
        for place in np.flatnonzero(records[:, 0] == UNREADABLE).tolist():
            index = manifest.shard_images(shard)[place]
            progress.failed[index] = (
                f"{names[index]}: could not be read in an earlier run. To try again, remove {path.name} and resume."
            )
    return missing


def _write_names(out: Path, names: list[str], rank: int) -> None:
    write_bytes(out / NAMES, gzip.compress(encode_names(names), mtime=0), rank)


Loaded = tuple[Tensor, list[Unreadable | None]]  # pixels, and an error per unreadable image


def _load(
    images: TransformedImages, manifest: Manifest, shards: list[int], batch_size: int, workers: int
) -> Iterator[tuple[list[int], Loaded]]:
    """Load batches of indices and images, none across two shards, so that a shard does not depend on the others."""
    batches = [
        list(indices[start : start + batch_size])
        for indices in map(manifest.shard_images, shards)
        for start in range(0, len(indices), batch_size)
    ]
    loader: DataLoader[Loaded] = DataLoader(
        TolerantDataset(images),
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        collate_fn=partial(_collate, torch.zeros(len(manifest.mean), *manifest.image_size, device="cpu")),
        pin_memory=torch.cuda.is_available(),
    )
    return zip(batches, loader, strict=True)


def _collate(blank: Tensor, samples: list[Any]) -> Loaded:
    errors = [sample if isinstance(sample, Unreadable) else None for sample in samples]
    return torch.stack(
        [blank if error else sample[0] for sample, error in zip(samples, errors, strict=True)]
    ), errors


def _compute_records(teacher: WindowTeacher, images: Tensor, errors: list[Unreadable | None]) -> Records:
    weight = next(teacher.model.parameters())
    field = teacher(images.to(weight.device, weight.dtype, non_blocking=True))
    records = pack(field.windows, field.dropped)
    records[[error is not None for error in errors]] = UNREADABLE
    return records
