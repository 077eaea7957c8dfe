"""A study of pairs as one HTML file that needs no network and no server.

Names of images, models and options and reasons of failures come from outside, so they are escaped.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from vit_interactions.compare.csv_files import csv_text
from vit_interactions.compare.report.citations import citations, methods_and_libraries
from vit_interactions.compare.report.embedded import ThemedFigure, text_uri, themed
from vit_interactions.compare.report.rendering import render_page
from vit_interactions.compare.report.tables import (
    Cell,
    Column,
    MethodRow,
    grouped_failures,
    summary_rows,
)
from vit_interactions.compare.study_folder import MANIFEST
from vit_interactions.figures.intervals import intervals_figure
from vit_interactions.pair_study.baselines import PASSES
from vit_interactions.pair_study.measure import CURVES
from vit_interactions.pair_study.panels import AREA_TITLES, CORRELATION_TITLES, panels, rank
from vit_interactions.pair_study.run import PairStudy
from vit_interactions.pair_study.summary import RELIABILITY
from vit_interactions.utilities.files import write_text
from vit_interactions.utilities.json_files import read_json

PAGE = "report.html"
DIFFERENCE = "− mean attention"  # title of the column
REASONS = ["model", "metric", "method", "image", "reason"]


def write_page(study: PairStudy, summary: pd.DataFrame, model: str, folder: Path) -> None:
    """Write a study that has results as an HTML file.

    Args:
        study: with at least one image.
        summary: from `summarize_pairs`.
        model: name of the model.
        folder: folder of the study.
    """
    content = read_json(folder / MANIFEST, "Restore the file.")
    write_text(folder / PAGE, render(study, summary, model, content or {}))


def render(study: PairStudy, summary: pd.DataFrame, model: str, content: Mapping[str, Any]) -> str:
    """Return the HTML of a study.

    Args:
        study: with at least one image.
        summary: from `summarize_pairs`.
        model: name of the model.
        content: the manifest of the study.
    """
    failures = pd.DataFrame(failure_rows(study), columns=REASONS)
    cited = "\n\n".join(citations([*methods_and_libraries(content["methods"]), "pair_area"]))
    scoring = summary.groupby("score")["scoring_forwards"].first()
    return render_page(
        "pairs.html.jinja",
        "vit_interactions.pair_study",
        model=model,
        measured=len(study.records),
        images=content["images"],
        methods=content["methods"],
        figures=figures(summary),
        correlations=score_table(summary, CORRELATION_TITLES, failures),
        areas=score_table(summary, AREA_TITLES, failures),
        effect_passes=round(scoring["spearman"]),
        curve_passes=None if isnan(scoring["pair_area"]) else round(scoring["pair_area"]),
        failures=grouped_failures(failures, {}),
        settings=content["settings"],
        facts={model: content["model"]},
        versions=content["versions"],
        citations=cited,
        bibtex=text_uri("text/x-bibtex", cited + "\n"),
        means=text_uri("text/csv", csv_text(summary)),
    )


def figures(summary: pd.DataFrame) -> list[ThemedFigure]:
    """Draw one figure per panel, so that they can be read on a narrow screen."""
    found = []
    for title, intervals in panels(summary).items():
        known = {label: interval for label, interval in intervals.items() if not isnan(interval[0])}
        if known:
            draw = partial(intervals_figure, {"": {title: known}})
            found.append(themed(draw, f"Means by method with 95% confidence intervals: {title}"))
    return found


def score_table(
    summary: pd.DataFrame, titles: Mapping[str, str], failures: pd.DataFrame
) -> tuple[list[Column], list[MethodRow]]:
    """Make a table of some scores, the best method first.

    Args:
        summary: from `summarize_pairs`.
        titles: score -> title of its column. The first one orders the methods, and its difference from mean attention
            has a column. Methods without any of the scores have no row.
        failures: reasons for missing values, with the columns `REASONS`.

    Returns:
        The columns, the last of which has the passes of a map, and the rows.
    """
    main = next(iter(titles))
    rows = means_and_differences(summary, titles)
    counts = rows.groupby("metric")["images"].max()
    heads = [
        Column(name, title, "lower" if name == "pair_deletion" else "higher", int(counts.get(name, 0)))
        for name, title in {**titles, DIFFERENCE: DIFFERENCE}.items()
    ]
    means = rows[rows["metric"] == main].set_index("method")["mean"]
    methods = sorted(dict.fromkeys(rows["method"]), key=lambda name: rank(means.get(name, nan)))
    # The reliability is not a method that could be the best.
    reliable = rows["method"] == RELIABILITY
    found = {row.method: row for row in summary_rows(rows[~reliable], methods, heads, failures)}
    for row in summary_rows(rows[reliable], [RELIABILITY] if reliable.any() else [], heads, failures):
        found[RELIABILITY] = MethodRow(
            row.method, tuple(replace(cell, best=False, good=None) for cell in row.cells)
        )
    costs = summary.groupby("method")[["forwards", "backwards"]].first()
    shown = []
    for name in methods:
        forwards, backwards = costs.loc[name]
        cost = Cell(f"{forwards:.0f} / {backwards:.0f}", float(forwards + backwards))
        label = name.replace("_", " ") + (" (baseline)" if name in PASSES else "")
        shown.append(MethodRow(label, (*found[name].cells, cost)))
    return [*heads, Column("passes", "passes", "lower", max(head.images for head in heads))], shown


def means_and_differences(summary: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Select the means of some scores, and turn the differences of the first one into the means of one more score."""
    means = summary.rename(columns={"score": "metric"})
    ends = {"mean": "difference", "low": "difference_low", "high": "difference_high"}
    moved = {column: means[source] for column, source in ends.items()}
    differences = means.assign(**moved, metric=DIFFERENCE)[means["metric"] == next(iter(titles))]
    rows: pd.DataFrame = pd.concat([means[means["metric"].isin(list(titles))], differences]).dropna(subset="mean")
    return rows


def failure_rows(study: PairStudy) -> Iterator[tuple[str, str, str, str, str]]:
    """List the failures of a study: model, metric, method, image and reason; "" stands for all."""
    for path, reason in study.failed.items():
        yield "", "", "", Path(path).name, reason
    for image, record in study.records.items():
        for name, reason in record.failures.items():
            yield ("", name, "", image, reason) if name == CURVES else ("", "", name, image, reason)
