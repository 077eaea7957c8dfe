"""`vit-interactions compare`: compare methods side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vit_interactions.cli.common import describe_page
from vit_interactions.cli.options import (
    METHOD,
    Alpha,
    Beta,
    Coverage,
    Device,
    ExcludeSinks,
    Images,
    OutputKind,
    ResumeSame,
    given_path,
    read_target,
)
from vit_interactions.utilities.checks import check_device, check_fraction
from vit_interactions.utilities.choices import DEFAULT_METRICS, DEFAULT_MODEL, METRIC_NAMES
from vit_interactions.utilities.console import errors
from vit_interactions.utilities.console import output as stdout
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.text import printable

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison

ALL = "all"
SHOWN = 20  # reasons of failures
REASON = 1000  # characters of each
LEGEND = (
    "Means over images, the best in bold; costs are per map. The random baseline is not ranked, and neither are means "
    "over fewer images than the others (*). 95% confidence intervals: {}."
)
EXPLORED = 4  # images that get an explorer page


def compare_command(
    *,
    images: Images = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"A model, as in `explain`; repeatable. Default: {DEFAULT_MODEL}."),
    ] = None,
    out: Annotated[Path, typer.Option(parser=given_path, metavar="FOLDER", help="Output folder.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(parser=given_path, metavar="FILE", help="Weights of the model, as in `explain`."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar=METHOD,
            help="A method from `vit-interactions methods`, with options if needed; repeatable. all: every method. "
            "Default: the fast methods of this library, and the random baseline.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"One of {', '.join(METRIC_NAMES)}; repeatable. all: every metric. "
            f"Default: {', '.join(DEFAULT_METRICS)}.",
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="CSV",
            help="Boxes around objects: columns file, left, top, right, bottom and, optionally, index (the class).",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="FOLDER",
            help="Masks of objects, instead of boxes: one PNG file per image, with its name and size; all nonzero "
            "pixels count as object.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="Target class: an index from 0, pred (the predicted class) or boxes (the class of the first box).",
        ),
    ] = "pred",
    output: OutputKind = None,
    alpha: Alpha = 0.10,
    beta: Beta = 0.20,
    window_coverage: Coverage = 1.0,
    exclude_sinks: ExcludeSinks = False,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Random seed of metrics and bootstrap intervals.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per batch; larger batches may be faster on a GPU.")
    ] = 1,
    resume: ResumeSame = False,
) -> None:
    """Compare methods side by side: their maps of your images, and metrics. Use torchrun for several processes."""
    names = model or [DEFAULT_MODEL]
    if checkpoint is not None and len(names) > 1:
        raise ValueError(f"`--checkpoint` must come with one --model, got {len(names)}.")
    check_fraction("--alpha", alpha)
    check_fraction("--beta", beta)
    check_fraction("--window-coverage", window_coverage)
    # They import torch, so they come after the checks of options.
    from vit_interactions.compare import compare
    from vit_interactions.compare.manifest import SUMMARY, TABLE
    from vit_interactions.explain.configured import configure
    from vit_interactions.explain.registry import all_methods
    from vit_interactions.images.bundled import bundled_images
    from vit_interactions.images.listing import skipped_files
    from vit_interactions.loading.models import load_model
    from vit_interactions.metrics import METRICS
    from vit_interactions.utilities.processes import process_group

    methods = configure(all_methods() if method == [ALL] else method) if method else None
    check_device("--device", device)
    with ExitStack() as held, process_group(device) as process:
        held.enter_context(locked(out, first=process.first))  # until all processes have finished
        place = str(process.device)
        comparison = compare(
            images or bundled_images(),
            {
                name: load_model(name, checkpoint, place, needs_attention=False)
                if checkpoint is not None
                else name
                for name in names
            },
            methods,
            [name for name in METRICS if boxes or masks or "object" not in METRICS[name].needs]
            if metric == [ALL]
            else metric,
            boxes=boxes,
            masks=masks,
            target=read_target(target),
            output=output,
            alpha=alpha,
            beta=beta,
            coverage=window_coverage,
            exclude_sinks=exclude_sinks,
            out=out,
            resume=resume,
            device=place,
            seed=seed,
            batch_size=batch_size,
        )
        if not process.first:
            return
        print_means(comparison)
        pages, lost = explorer_pages(comparison, checkpoint, place)
        for page in [comparison.report(out / "report.html"), *pages]:
            errors.print(f"wrote {describe_page(page)}", soft_wrap=True)
        errors.print(f"the results are in {out}: {TABLE} and {SUMMARY}", soft_wrap=True)
        for note in filter(None, [skipped_files(images or ()), *comparison.notes()]):
            errors.print(printable(f"note: {note}"), soft_wrap=True)
    end(comparison, metric or (), lost_pages=lost)


def explorer_pages(comparison: "Comparison", checkpoint: Path | None, device: str) -> tuple[list[Path], bool]:
    """Write the explorer pages of the first images under the first model.

    Returns:
        The pages, and whether one failed; a model that the explorer does not support is a note only.
    """
    # Load Bokeh only if a page is written.
    from vit_interactions.attention.errors import UnsupportedModelError
    from vit_interactions.compare.manifest import EXPLORER
    from vit_interactions.explorer.pages import Pages, write_pages
    from vit_interactions.loading.models import load_model

    name = comparison.models[0]
    paths = [comparison.folder / image.path for image in comparison.images if image.error is None][:EXPLORED]
    shared = ("alpha", "beta", "coverage", "exclude_sinks", "output")
    settings = {key: comparison.settings[key] for key in shared}
    pages = Pages()
    try:
        model = load_model(name, checkpoint, device)
        steps = write_pages(
            model, paths, comparison.folder / EXPLORER, name=name, named=checkpoint is None, **settings
        )
        for pages in steps:  # noqa: B007
            pass
    except UnsupportedModelError as error:
        errors.print(f"note: no explorer pages: {error}", soft_wrap=True)
    for path, reason in pages.failed.items():
        errors.print(f"no explorer page of {path}: {reason}", soft_wrap=True)
    return list(pages.done.values()), bool(pages.failed)


def print_means(comparison: "Comparison") -> None:
    """Print a table methods x metrics per model; nothing if there are no values."""
    # They load pandas and matplotlib.
    from vit_interactions.compare.manifest import SUMMARY
    from vit_interactions.compare.report.matrix import matrices

    found = matrices(comparison, stdout)
    if found:
        stdout.print(*found, sep="\n")
        stdout.print(LEGEND.format(SUMMARY))


def end(comparison: "Comparison", requested: Sequence[str], *, lost_pages: bool) -> None:
    """Report failures, and exit with code 1 if any requested result is missing.

    Counted as missing: an image, a method or metric that failed (not one that is unsupported), a metric named on the
    command line without any value under a model, and an explorer page.
    """
    # They load pandas.
    from vit_interactions.compare.records import DETERMINISTIC
    from vit_interactions.compare.report.failures import failure_line, failures_by_reason
    from vit_interactions.compare.report.tables import grouped_failures

    failures = comparison.failures()
    names = {image.key: image.name for image in comparison.images}
    reasons = failures_by_reason(grouped_failures(failures, names))
    for alike in reasons[:SHOWN]:
        under = f"{alike[0].model}: " if len(comparison.models) > 1 else ""
        line = printable(f"failed: {under}{failure_line(alike, longest=REASON)}")
        errors.print(line, soft_wrap=True, style="red")
    if len(reasons) > SHOWN:
        errors.print(f"failed: {len(reasons) - SHOWN} more reasons; `Comparison.failures` lists all", style="red")
    missing = valueless(comparison, requested)
    for line in missing:
        errors.print(printable(f"failed: {line}"), soft_wrap=True, style="red")
    lost = missing or lost_pages or (failures["method"] == "").any()
    if lost or not failures["error"].isin(DETERMINISTIC).all():
        raise typer.Exit(1)


def valueless(comparison: "Comparison", requested: Sequence[str]) -> list[str]:
    """Describe metrics without any value: those named on the command line, or all of a model.

    Args:
        comparison: finished.
        requested: names from the command line; other metrics may be unsupported.
    """
    table = comparison.table()
    lines = []
    for model in comparison.models:
        present = set(table[table["model"] == model]["metric"])
        named = [name for name in comparison.metrics if name in requested and name not in present]
        if not present & {*comparison.metrics}:
            lines.append(f"no metric has a value under {model}")
        elif named:
            lines.append(f"{', '.join(named)} without any value under {model}")
    return lines
