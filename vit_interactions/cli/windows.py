"""`vit-interactions windows`: compute the windows of every image of a dataset."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vit_interactions.cli.options import Alpha, Beta, Coverage, Device, ExcludeSinks, given_path
from vit_interactions.training.settings import MAX_SIDE, MAX_WORKERS
from vit_interactions.utilities.checks import check_device, check_fraction
from vit_interactions.utilities.console import errors as console
from vit_interactions.utilities.locks import locked

SHOWN = 20  # unreadable images that are named


def windows_command(
    data: Annotated[
        Path,
        typer.Option(parser=given_path, metavar="DIR", help="Dataset, as in `vit-interactions train`."),
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The teacher: a trained plain timm ViT.")],
    out: Annotated[Path, typer.Option(parser=given_path, metavar="STORE", help="Folder of the window store.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            parser=given_path, metavar="FILE", help="Weights of the teacher. Default: timm's pretrained weights."
        ),
    ] = None,
    alpha: Alpha = 0.10,
    beta: Beta = 0.20,
    window_coverage: Coverage = 1.0,
    exclude_sinks: ExcludeSinks = False,
    dataset: Annotated[str, typer.Option(help="Kind of dataset, as timm names it; empty: image folders.")] = "",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    img_size: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_SIDE, help="Side of the teacher's square input. Default: its own."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass of the teacher.")] = 64,
    workers: Annotated[int, typer.Option(min=0, max=MAX_WORKERS, help="Worker processes that load images.")] = 4,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the store in --out, if there is one.")
    ] = False,
) -> None:
    """Compute the windows of every image of a dataset, for `train --window-targets cached`.

    With torchrun, on several devices. Exits with 1 if an image could not be read.
    """
    check_fraction("--alpha", alpha)
    check_fraction("--beta", beta)
    check_fraction("--window-coverage", window_coverage)
    # They import torch, so they come after the checks of options.
    from vit_interactions.loading.classifiers import load_classifier
    from vit_interactions.training.data.build_store import build_window_store
    from vit_interactions.training.data.datasets import open_split
    from vit_interactions.training.data.window_store import count_unreadable, read_manifest
    from vit_interactions.training.teacher import WindowTeacher
    from vit_interactions.utilities.processes import independent_process

    images = open_split(data, split, kind=dataset)
    process = independent_process(check_device("--device", device))
    vit = load_classifier(model, checkpoint, img_size=img_size)
    teacher = WindowTeacher(vit, alpha, beta, window_coverage, exclude_sinks).to(process.device)
    columns = TextColumn("windows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    rank, world = process.rank, process.world
    with locked(out, rank), Progress(*columns, console=console, disable=rank > 0) as bar:
        task = bar.add_task("windows", total=None)
        for progress in build_window_store(
            images, teacher, out, batch_size=batch_size, workers=workers, resume=resume, rank=rank, world=world
        ):
            bar.update(task, completed=progress.done, total=progress.total)
    for name in progress.damaged:
        console.print(f"rebuilt: {name} in {out} was damaged", soft_wrap=True)
    for reason in list(progress.failed.values())[:SHOWN]:
        console.print(f"skipped: {reason}", soft_wrap=True, style="red")
    if len(progress.failed) > SHOWN:
        console.print(f"skipped: {len(progress.failed) - SHOWN} more unreadable images", style="red")
    size = read_manifest(out).record_bytes
    done = progress.done - len(progress.failed)
    console.print(
        f"Wrote the windows of {done} of {progress.total} images to {out}, {size} bytes each",
        soft_wrap=True,
    )
    # Any other exit code makes torchrun kill the other processes, so the last one to finish reports for all.
    if count_unreadable(out):
        raise typer.Exit(1)
