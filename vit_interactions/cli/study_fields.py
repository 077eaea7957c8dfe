"""`vit-interactions study-fields`: claims about fields and objects, tested against null models."""

from itertools import groupby
from math import isnan
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.progress import track
from rich.table import Table

from vit_interactions.cli.common import chosen_images, end_with_failures
from vit_interactions.cli.options import (
    Beta,
    Checkpoint,
    Coverage,
    Device,
    ExcludeSinks,
    Model,
    ResumeSame,
    check_folder_option,
    given_path,
)
from vit_interactions.training.settings import MAX_SIDE
from vit_interactions.utilities.checks import check_device, check_fraction
from vit_interactions.utilities.choices import DEFAULT_MODEL
from vit_interactions.utilities.console import errors, output
from vit_interactions.utilities.files import write_atomically
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.text import plural, printable

if TYPE_CHECKING:
    import pandas as pd

FIGURE = "claims.png"


def study_fields(
    *,
    images: Annotated[
        Path, typer.Option(parser=given_path, metavar="FOLDER", help="Folder of images (without subfolders).")
    ],
    boxes: Annotated[
        Path,
        typer.Option(
            parser=given_path, metavar="CSV", help="Boxes around objects: columns file, left, top, right, bottom."
        ),
    ],
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(parser=given_path, metavar="FOLDER", help="Output folder.")],
    checkpoint: Checkpoint = None,
    img_size: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_SIDE, help="Side of the square input of a timm model. Default: its own."),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            help="Fraction of all patch pairs that count as relevant, in [0, 1]; repeatable. Default: 0.1."
        ),
    ] = None,
    beta: Beta = 0.20,
    window_coverage: Coverage = 1.0,
    exclude_sinks: ExcludeSinks = False,
    num_images: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Use only the first N images that have boxes.")
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed of null models and intervals.")] = 0,
    resume: ResumeSame = False,
) -> None:
    """Test claims about responsive fields and objects against null models."""
    for share in alpha or ():
        check_fraction("--alpha", share)
    check_fraction("--beta", beta)
    check_fraction("--window-coverage", window_coverage)
    check_folder_option(out)
    # They import torch, so they come after the checks of options.
    from vit_interactions.field_study.objects import find_objects
    from vit_interactions.field_study.run import StudyResult, StudySettings, study_images
    from vit_interactions.field_study.summary import summarize_claims, write_results
    from vit_interactions.figures.intervals import intervals_figure
    from vit_interactions.images.boxes import boxes_by_image, read_boxes, unused_boxes
    from vit_interactions.loading.classifiers import load_classifier
    from vit_interactions.loading.models import load_model

    alphas = tuple(dict.fromkeys(alpha or StudySettings.alphas))
    listed = read_boxes(boxes)
    paths = chosen_images([images])
    with_boxes = {path: own for path, own in boxes_by_image(listed, paths).items() if own}
    place = check_device("--device", device)
    # Only timm's models can be built for another size.
    vit = (
        load_model(model, checkpoint, place)
        if img_size is None
        else load_classifier(model, checkpoint, img_size=img_size).to(place)
    )
    chosen = dict(list(with_boxes.items())[:num_images])
    found, uniform, failed = find_objects(vit, chosen, lambda paths: track(paths, "reading", console=errors))
    result = StudyResult({})
    with locked(out):
        settings = StudySettings(alphas, beta, seed, window_coverage, exclude_sinks)
        steps = study_images(vit, found, settings, out, resume=resume)
        for result in track(steps, "measuring", total=len(found), console=errors):  # noqa: B007
            pass
        if result.measured:
            table = summarize_claims([values for _, values in sorted(result.measured.items())], seed)
            write_results(table, out)
            figure = intervals_figure(panels(table))
            write_atomically(out / FIGURE, lambda file: figure.savefig(file, dpi=130, format="png"))
            output.print(*(claims_table(share, table[table["alpha"] == share]) for share in alphas), sep="\n")
            errors.print(f"the results are in {printable(str(out))}", soft_wrap=True)
    notes = unused_boxes(listed, paths)
    if len(paths) > len(with_boxes):
        notes.append(f"{plural(len(paths) - len(with_boxes), 'image')} without boxes skipped")
    if uniform:
        notes.append(f"{plural(len(uniform), 'image')} skipped, whose boxes contain all patches or none")
    for note in notes:
        errors.print(printable(f"note: {note}"), soft_wrap=True)
    end_with_failures(failed | result.failed)


def claims_table(alpha: float, results: "pd.DataFrame") -> Table:
    """Return the table of one alpha: claim by claim, reality first, then each control and the difference to it."""
    title = f"alpha {alpha:g}, {plural(int(results['images'].max()), 'image')}"
    table = Table("claim", "control", "mean", "95% CI", "difference", "95% CI", title=title, box=SIMPLE, padding=0)
    for column in table.columns[1:]:
        column.no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    records: list[Any] = results.to_dict("records")
    for claim, rows in groupby(records, itemgetter("claim")):
        words = iter([label(claim)])
        for row in rows:
            table.add_row(
                next(words, ""),
                label(row["control"]),
                number(row["mean"]),
                interval(row["low"], row["high"]),
                number(row["difference"]),
                interval(row["difference_low"], row["difference_high"]),
            )
        table.add_section()
    return table


def label(name: str) -> str:
    """Return the display name of a claim or a control.

    Example:
        >>> label("size_auc")
        'size auc'
    """
    return name.replace("_", " ")


def number(value: float) -> str:
    """Format a mean.

    Example:
        >>> number(0.93333), number(float("nan"))
        ('0.933', '-')
    """
    return "-" if isnan(value) else f"{value:.3f}"


def interval(low: float, high: float) -> str:
    """Format an interval.

    Example:
        >>> interval(-0.1, 0.25), interval(float("nan"), float("nan"))
        ('-0.100 to 0.250', '-')
    """
    return "-" if isnan(low) else f"{number(low)} to {number(high)}"


def panels(results: "pd.DataFrame") -> dict[str, dict[str, dict[str, tuple[float, float, float]]]]:
    """Arrange results for `intervals_figure`: a row of panels per alpha, a panel per claim."""
    arranged: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    records: list[Any] = results.to_dict("records")
    for row in records:
        intervals = arranged.setdefault(f"α = {row['alpha']:g}", {}).setdefault(label(row["claim"]), {})
        intervals[label(row["control"])] = (row["mean"], row["low"], row["high"])
    return arranged
