"""`vit-interactions windows`: the windows of every picture of a dataset, once and for all."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vit_interactions.cli.options import Alpha, Beta, Device, given_path
from vit_interactions.training.classifiers import load_classifier
from vit_interactions.training.data.build_store import build_window_store
from vit_interactions.training.data.datasets import open_split
from vit_interactions.training.data.window_store import count_unreadable, read_manifest
from vit_interactions.training.settings import MAX_SIDE, MAX_WORKERS
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.checks import check_device, check_fraction
from vit_interactions.utilities.console import errors as console
from vit_interactions.utilities.locks import locked

SHOWN = 20  # pictures that could not be read


def windows_command(
    data: Annotated[
        Path, typer.Option(parser=given_path, metavar="DIR", help="The pictures, as of `vit-interactions train`.")
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The teacher: a trained plain ViT of timm.")],
    out: Annotated[Path, typer.Option(parser=given_path, metavar="STORE", help="The folder to make.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(parser=given_path, metavar="FILE", help="The teacher's weights; else those that timm knows."),
    ] = None,
    alpha: Alpha = 0.10,
    beta: Beta = 0.20,
    dataset: Annotated[
        str, typer.Option(help="Kind of source, as timm names it; empty: folders of pictures.")
    ] = "",
    split: Annotated[str, typer.Option(help="The part of the data.")] = "train",
    img_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_SIDE, help="Side of the teacher's square input; else what it was trained with."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that the teacher sees at a time.")] = 64,
    workers: Annotated[int, typer.Option(min=0, max=MAX_WORKERS, help="Processes that read pictures.")] = 4,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the store in --out, if there is one.")
    ] = False,
) -> None:
    """Compute the windows of all images once, for `train --window-targets cached`; by torchrun on many devices.

    Exits with 1 if an image could not be read.
    """
    check_fraction("--alpha", alpha)
    check_fraction("--beta", beta)
    pictures = open_split(data, split, kind=dataset)
    rank, world, device = place_among_processes(check_device("--device", device))
    teacher = WindowTeacher(load_classifier(model, checkpoint, img_size=img_size), alpha, beta).to(
        check_device("--device", device)
    )
    columns = TextColumn("windows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with locked(out, rank), Progress(*columns, console=console, disable=rank > 0) as progress:
        task = progress.add_task("windows", total=None)
        for report in build_window_store(
            pictures, teacher, out, batch_size=batch_size, workers=workers, resume=resume, rank=rank, world=world
        ):
            progress.update(task, completed=report.done, total=report.total)
    for name in report.damaged:
        console.print(f"made again: {name} in {out} was damaged", markup=False, soft_wrap=True)
    for reason in list(report.failed.values())[:SHOWN]:
        console.print(f"left out: {reason}", markup=False, soft_wrap=True, style="red")
    if len(report.failed) > SHOWN:
        console.print(f"left out: {len(report.failed) - SHOWN} more that cannot be read", style="red")
    size = read_manifest(out).record_bytes
    done = report.done - len(report.failed)
    console.print(
        f"windows of {done} of {report.total} images, {size} bytes each, in {out}", markup=False, soft_wrap=True
    )
    # Another code than 0 makes torchrun end the other processes, so the last one to finish speaks for all.
    if count_unreadable(out):
        raise typer.Exit(1)


def place_among_processes(device: str) -> tuple[int, int, str]:
    """Return this process's number, how many there are, and its device, by the variables that torchrun sets.

    Example:
        >>> place_among_processes("cpu")
        (0, 1, 'cpu')
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = os.environ.get("LOCAL_RANK")
    return rank, world, f"cuda:{local}" if device == "cuda" and local is not None else device
