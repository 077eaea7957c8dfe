"""`vit-interactions compare-pairs`: compare pair maps with the measured effects of pairs of patches."""

from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.progress import track
from rich.table import Table

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
TITLES = {
    "spearman": "rank correlation",
    "beyond_distance": "beyond distance",
    "beyond_first_order": "and first order",
}
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
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed of pairs and contexts.")] = 0,
    resume: ResumeSame = False,
) -> None:
    """Compare pair maps with measured interactions: second differences of the score while tokens are masked."""
    check_folder_option(out)
    # They import torch, so they come after the checks of options.
    from vit_interactions.explain.configured import configure
    from vit_interactions.explain.registry import pair_methods
    from vit_interactions.figures.intervals import intervals_figure
    from vit_interactions.loading.models import load_model
    from vit_interactions.pair_study.measure import PairSettings
    from vit_interactions.pair_study.run import PairStudy, study_pairs
    from vit_interactions.pair_study.summary import summarize_pairs, write_tables

    methods = configure(method or [name for name in pair_methods() if name not in SAME])
    check_methods(methods)
    paths = chosen_images(images)
    vit = load_model(model, checkpoint, check_device("--device", device))
    study = PairStudy()
    with locked(out):
        steps = study_pairs(
            vit, paths, methods, PairSettings(pairs, contexts, weighting, seed), out, resume=resume
        )
        for study in track(steps, "measuring", total=len(paths), console=errors):  # noqa: B007
            pass
        if study.records:
            passes = {each.name: (each.kind.forwards, each.kind.backwards) for each in methods}
            summary = summarize_pairs(study.records, passes, seed)
            write_tables(study.records, summary, out)
            figure = intervals_figure(panels(summary))
            write_atomically(out / FIGURE, lambda file: figure.savefig(file, dpi=130, format="png"))
            output.print(summary_table(summary))
            errors.print(f"the results are in {printable(str(out))}", soft_wrap=True)
    failures = {f"{name} ({image})": why for image, r in study.records.items() for name, why in r.failures.items()}
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


def summary_table(summary: "pd.DataFrame") -> Table:
    """Return the table of mean rank correlations, the best method first."""
    images = plural(int(summary["images"].max()), "image")
    title = f"Rank correlation with the measured interaction, {images}"
    table = Table("method", *TITLES.values(), "passes", title=title, box=SIMPLE, padding=0)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    records: list[Any] = summary.to_dict("records")
    rows: dict[str, list[Any]] = {}
    for record in records:
        rows.setdefault(record["method"], []).append(record)
    for name, scores in sorted(rows.items(), key=lambda row: rank(row[1][0]["mean"])):
        cost = f"{scores[0]['forwards']:.0f}+{scores[0]['backwards']:.0f}"
        table.add_row(name.replace("_", " "), *map(number, scores), cost)
    return table


def panels(summary: "pd.DataFrame") -> dict[str, dict[str, dict[str, tuple[float, float, float]]]]:
    """Arrange a summary for `intervals_figure`: a panel per score, the first method on top and the best ones next."""
    records: list[Any] = summary.to_dict("records")
    first = next(row["method"] for row in records if row["method"] != "reliability")
    plain = {row["method"]: row["mean"] for row in records if row["score"] == "spearman"}
    order = sorted(plain, key=lambda name: (name != first, rank(plain[name])))
    found = {(row["method"], row["score"]): (row["mean"], row["low"], row["high"]) for row in records}
    titled = {
        title: {name.replace("_", " "): found[name, score] for name in order} for score, title in TITLES.items()
    }
    return {"": titled}


def rank(mean: float) -> float:
    """Return a key that sorts means from the highest to the lowest, NaN last.

    Example:
        >>> sorted([0.2, float("nan"), 0.5], key=rank)
        [0.5, 0.2, nan]
    """
    return inf if isnan(mean) else -mean


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
