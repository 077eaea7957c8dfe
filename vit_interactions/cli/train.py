"""`vit-interactions train` and `evaluate`, whose options are the fields of their settings."""

import csv
import dataclasses
import inspect
import io
import typing
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vit_interactions.cli.options import check_folder_option, given_path
from vit_interactions.training.presets import PRESETS, apply_preset
from vit_interactions.training.reporter import Reporter
from vit_interactions.training.settings import BaseSettings, EvaluationSettings, TrainingSettings
from vit_interactions.utilities.console import errors as console
from vit_interactions.utilities.console import output
from vit_interactions.utilities.files import write_atomically, write_text
from vit_interactions.utilities.json_files import write_json
from vit_interactions.utilities.locks import locked

if TYPE_CHECKING:
    from vit_interactions.training.evaluate import Evaluation

Data = Annotated[
    Path,
    typer.Argument(
        parser=given_path,
        metavar="DATA",
        help="Dataset: a folder with train and val, each with one folder of images per class.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(parser=given_path, metavar="FOLDER", help="Folder for settings, logs, checkpoint and models."),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"Training recipe, overridden by other options: {', '.join(PRESETS)}."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --out, if there is one.")]
ResultFile = Annotated[
    Path | None,
    typer.Option("--out", parser=given_path, metavar="FILE", help="Also write the results: .json or .csv."),
]


def add_commands(app: typer.Typer) -> None:
    """Add `train` and `evaluate` to an application."""
    app.command("train")(with_options(train_command, TrainingSettings))
    app.command("evaluate")(with_options(evaluate_command, EvaluationSettings))


def train_command(data: Data, out: Out, preset: Preset = None, resume: Resume = False, **options: Any) -> None:
    """Train a classifier: a plain ViT, WinfT, AWD-ViT or another timm model. With torchrun, on several devices."""
    settings = TrainingSettings(data=data, **apply_preset(preset, options))
    check_folder_option(out)
    # They import torch, so they come after the checks of options.
    from vit_interactions.figures.training import training_figure
    from vit_interactions.training.log import read_rows
    from vit_interactions.training.train import train

    with ConsoleReporter() as reporter:
        result = train(settings, out, resume=resume, reporter=reporter)
    if result.first:
        figure = training_figure(read_rows(out / "log.csv"), read_rows(out / "summary.csv"), out.resolve().name)
        with locked(out):
            write_atomically(out / "curves.png", lambda file: figure.savefig(file, dpi=150, format="png"))
        if not result.signal:
            reporter.note(f"Finished {result.step} of {result.total} steps; the results are in {out}")
    if result.signal:
        raise typer.Exit(128 + result.signal)


def evaluate_command(data: Data, out: ResultFile = None, **options: Any) -> None:
    """Measure the top-1 and top-5 accuracy, patch interactions (E_O) and throughput of a classifier."""
    if out is not None and out.suffix not in (".json", ".csv"):
        raise ValueError(f"`--out` must end in .json or .csv, got {out}.")
    settings = EvaluationSettings(data=data, **{k: v for k, v in options.items() if v is not None})
    # They import torch, so they come after the checks of options.
    from vit_interactions.training.data.unreadable import describe_unreadable
    from vit_interactions.training.evaluate import run_evaluation

    with ConsoleReporter() as reporter:
        evaluation = run_evaluation(settings, reporter)
    if evaluation is None:  # only the first process reports
        return
    output.print(as_table(settings.model, evaluation))
    if out is not None:
        write_result(out, settings, evaluation)
    if evaluation.unreadable:
        text = f"{evaluation.images:,} images ({describe_unreadable(evaluation.unreadable)})"
        console.print(text, soft_wrap=True, style="red")
        raise typer.Exit(1)


def with_options(command: Callable[..., None], settings: type[BaseSettings]) -> Callable[..., None]:
    """Add an option for each field of the settings to a command; options that are not given are None."""
    types = typing.get_type_hints(settings)
    added = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[types[field.name] | None, option_of(field, types[field.name])],
        )
        for field in dataclasses.fields(settings)
        if field.name != "data"
    ]

    def run(**options: Any) -> None:
        command(**options)

    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    everything = [p.replace(kind=p.KEYWORD_ONLY) for p in own] + added
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in everything}
    return run


def option_of(field: "dataclasses.Field[Any]", kind: Any) -> Any:
    """Create the option of a field of a type."""
    text: str = field.metadata["help"]
    if field.default not in (None, "", False):
        text += f" Default: {field.default}."
    if Path in (kind, *typing.get_args(kind)):
        return typer.Option(parser=given_path, metavar="PATH", help=text)
    return typer.Option(help=text)


def as_table(model: str, evaluation: "Evaluation") -> Table:
    """Return the results of an evaluation as a table of one row."""
    table = Table("images", "top-1", "top-5", "loss", "E_O", "of all pairs", "images/s", title=Text(model))
    interactions = ("-", "-")
    if evaluation.operations is not None and evaluation.pairs is not None:
        share = evaluation.operations / evaluation.pairs
        interactions = f"{evaluation.operations:,.0f}", f"{100 * share:.1f}% of {evaluation.pairs:,}"
    table.add_row(
        f"{evaluation.images:,}",
        f"{evaluation.top1:.2f}%",
        "-" if evaluation.top5 is None else f"{evaluation.top5:.2f}%",
        f"{evaluation.loss:.3f}",
        *interactions,
        f"{evaluation.throughput:.1f}",
    )
    return table


def write_result(path: Path, settings: EvaluationSettings, evaluation: "Evaluation") -> None:
    """Write an evaluation as JSON with its settings, or as CSV; NaN becomes null or an empty field."""
    from vit_interactions.models.trained_windows import WINDOW_SETTINGS

    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: value if isfinite(value or 0) else None for name, value in evaluation.as_row().items()}
    row = {"model": settings.model, **numbers}
    if path.suffix == ".json":
        unused = {} if settings.teacher else dict.fromkeys(WINDOW_SETTINGS)
        failed = {"unreadable_images": dict(evaluation.unreadable)} if evaluation.unreadable else {}
        write_json(path, {**row, **failed, "settings": settings.as_json() | unused})
        return
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(row))
    writer.writeheader()
    writer.writerow(row)
    write_text(path, table.getvalue())


class ConsoleReporter(Reporter):
    """Shows progress as a bar on a terminal, and as one line per row of the log elsewhere."""

    def __init__(self) -> None:
        """Start without a bar."""
        self._progress: Progress | None = None
        self._text = ""

    def __enter__(self) -> "ConsoleReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def note(self, text: str) -> None:
        """Print a line."""
        console.print(text, soft_wrap=True)

    def progress(self, step: int, total: int, text: str) -> None:
        """Update the bar, or print a line if there is new text."""
        self._text = text or self._text
        if not console.is_terminal:
            if text:
                self.note(f"step {step} of {total}: {text}")
            return
        if self._progress is None:
            columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
            self._progress = Progress(*columns, console=console)
            self._progress.add_task("", total=total)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=step, description=self._text)
