"""`vit-interactions compare-pairs`: compare pair maps with the measured effects of pairs of patches."""

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.progress import track
from rich.table import Table
from rich.text import Text

from vit_interactions.cli.common import chosen_images, end_with_failures
from vit_interactions.cli.options import (
    METHOD,
    Checkpoint,
    Device,
    Images,
    Model,
    ResumeSame,
    check_folder_option,
    given_path,
)
from vit_interactions.utilities.checks import check_device
from vit_interactions.utilities.choices import DEFAULT_MODEL, Weighting
from vit_interactions.utilities.console import errors, output
from vit_interactions.utilities.files import write_atomically
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.text import plural, printable

if TYPE_CHECKING:
    import pandas as pd

    from vit_interactions.explain.configured import ConfiguredMethod

FIGURE = "pairs.png"
# Their pair maps are those of other methods.
SAME = ("responsive_field_tendency", "indiscriminative_patches")


def compare_pairs(
    *,
    images: Images = None,
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(parser=given_path, metavar="FOLDER", help="Output folder.")],
    checkpoint: Checkpoint = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar=METHOD,
            help="A method with a pair map, with options if needed; repeatable. Default: all of them.",
        ),
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=4, help="Pairs of patches per image, half of them near each other.")
    ] = 80,
    contexts: Annotated[int, typer.Option(min=2, help="Random sets of other patches per image.")] = 12,
    weighting: Annotated[
        Weighting,
        typer.Option(help="Distribution of the contexts: banzhaf (half of the patches) or shapley_taylor."),
    ] = "banzhaf",
    steps: Annotated[int, typer.Option(min=2, help="Steps of second-order insertion and deletion.")] = 10,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed of pairs and contexts.")] = 0,
    resume: ResumeSame = False,
) -> None:
    """Compare pair maps with measured interactions, and by the score of the patches they choose; tokens are masked."""
    check_folder_option(out)
    paths = chosen_images(images)
    # They import torch, so they come after the checks of options.
    from vit_interactions.explain.configured import configure
    from vit_interactions.explain.registry import pair_methods
    from vit_interactions.figures.intervals import intervals_figure
    from vit_interactions.loading.models import load_model
    from vit_interactions.pair_study.measure import CURVES, PairSettings
    from vit_interactions.pair_study.page import PAGE, write_page
    from vit_interactions.pair_study.panels import AREA_TITLES, CORRELATION_TITLES, panels
    from vit_interactions.pair_study.run import PairStudy, study_pairs
    from vit_interactions.pair_study.summary import summarize_pairs, write_tables

    methods = configure(method or [name for name in pair_methods() if name not in SAME])
    check_methods(methods)
    vit = load_model(model, checkpoint, check_device("--device", device))
    study = PairStudy()
    with locked(out):
        settings = PairSettings(pairs, contexts, weighting, steps, seed)
        states = study_pairs(vit, paths, methods, settings, out, resume=resume)
        for study in track(states, "measuring", total=len(paths), console=errors):  # noqa: B007
            pass
        if study.records:
            passes = {each.name: (each.kind.forwards, each.kind.backwards) for each in methods}
            summary = summarize_pairs(study.records, passes, seed)
            write_tables(study.records, summary, out)
            figure = intervals_figure({"": panels(summary)})
            write_atomically(out / FIGURE, lambda file: figure.savefig(file, dpi=130, format="png"))
            write_page(study, summary, model, out)
            output.print(
                summary_table(summary, "Rank correlation with the measured interaction", CORRELATION_TITLES)
            )
            output.print(summary_table(summary, "Second-order insertion and deletion", AREA_TITLES))
            errors.print(f"the results are in {printable(str(out))}; open {PAGE}", soft_wrap=True)
    failures = dict[str, str]()
    without_curves = dict[str, None]()  # reasons, of the model rather than of images
    for image, record in study.records.items():
        for name, reason in record.failures.items():
            if name == CURVES:
                without_curves[reason] = None
            else:
                failures[f"{name} ({image})"] = reason
    for reason in without_curves:
        errors.print(printable(f"note: no {CURVES}: {reason}"), soft_wrap=True)
    end_with_failures(study.failed | failures)


def check_methods(methods: "tuple[ConfiguredMethod, ...]") -> None:
    """Raise ValueError for a method without a pair map."""
    from vit_interactions.explain.pair_map import PairMapped
    from vit_interactions.explain.registry import pair_methods

    for method in methods:
        if not issubclass(method.kind, PairMapped):
            raise ValueError(
                f"`--method` must have a pair map ({', '.join(pair_methods())}), got {method.name}, which has none."
            )


def summary_table(summary: "pd.DataFrame", title: str, columns: dict[str, str]) -> Table:
    """Return a table of mean scores, the best method first.

    Args:
        summary: from `summarize_pairs`.
        title: of the table.
        columns: score -> its title. The first one orders the methods. Those without any score are not shown.
    """
    from vit_interactions.pair_study.panels import rank

    images = plural(int(summary["images"].max()), "image")
    main = next(iter(columns))
    records: list[Any] = summary.to_dict("records")
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        found.setdefault(record["method"], {})[record["score"]] = record
    shown = {name: row for name, row in found.items() if any(row[score]["images"] for score in columns)}
    rows = [["method", *columns.values(), "passes"]]
    for name, scores in sorted(shown.items(), key=lambda item: rank(item[1][main]["mean"])):
        cost = f"{scores[main]['forwards']:.0f}+{scores[main]['backwards']:.0f}"
        rows.append([name.replace("_", " "), *(number(scores[score]) for score in columns), cost])
    # Intervals go below their means rather than cut names.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    wide = sum(widths) + len(widths) + 1 > output.width
    rows = [[name, *(text.replace(" ", "\n", 1) if wide else text for text in texts)] for name, *texts in rows]
    table = Table(title=f"{title}, {images}", box=SIMPLE, padding=0)
    table.add_column(rows[0][0])
    for head in rows[0][1:]:
        table.add_column(Text(head), justify="right", no_wrap=True)
    for name, *texts in rows[1:]:
        table.add_row(name, *map(Text, texts))
    return table


def number(score: dict[str, Any]) -> str:
    """Format a mean with its interval, with "to" instead of a dash between its ends if one is negative.

    Example:
        >>> number({"mean": 0.5812, "low": 0.55, "high": 0.61}), number({"mean": float("nan")})
        ('0.58 (0.55–0.61)', '-')
        >>> number({"mean": -0.02, "low": -0.07, "high": 0.03})
        '-0.02 (-0.07 to 0.03)'
    """
    if isnan(score["mean"]):
        return "-"
    if isnan(score["low"]):
        return f"{score['mean']:.2f}"
    ends = f"{score['low']:.2f}", f"{score['high']:.2f}"
    return f"{score['mean']:.2f} ({(' to ' if ends[0].startswith('-') else '–').join(ends)})"
