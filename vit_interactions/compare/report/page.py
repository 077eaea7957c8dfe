"""A comparison as one HTML file that needs no network and no server.

Names of files, classes and models and reasons of failures come from outside, so they are escaped. The page's security
policy allows only its own script, by its hash, and no requests.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import pandas as pd

from vit_interactions.compare.csv_files import csv_text
from vit_interactions.compare.manifest import EXPLORER
from vit_interactions.compare.report.citations import citations, methods_and_libraries
from vit_interactions.compare.report.embedded import ThemedFigure, text_uri, themed
from vit_interactions.compare.report.figures import agreement_of, curves_of, ranking_of
from vit_interactions.compare.report.rendering import render_page
from vit_interactions.compare.report.shown import show_image
from vit_interactions.compare.report.tables import (
    Best,
    Column,
    MethodRow,
    StabilityRow,
    best_by_metric,
    columns,
    grouped_failures,
    model_tables,
    stability_rows,
    summary_rows,
)
from vit_interactions.compare.results import Results
from vit_interactions.compare.stability import rank_stability
from vit_interactions.explorer.page_files import image_id, pages_by_image
from vit_interactions.figures.display import POLICY
from vit_interactions.utilities.files import write_text

FIRST = 6  # images that are shown at once, so that the tables are near
SHOWN = 150  # images whose maps are in the page, so that it opens quickly


@dataclass(frozen=True)
class ModelPart:
    """The results of one model over all images."""

    name: str
    heads: list[Column]
    rows: list[MethodRow]
    best: list[Best]
    rankings: list[ThemedFigure]
    curves: list[ThemedFigure]
    agreement: ThemedFigure | None
    stability: list[StabilityRow]


def report(results: Results, path: str | PathLike[str]) -> Path:
    """Write a comparison as one HTML file: every image with its maps, tables, figures, and citations.

    Of more than 150 images, 150 are shown, evenly spread, the first six opened; tables and figures are over all.

    Args:
        results: finished or not.
        path: of the file to write; an existing file is replaced atomically.

    Returns:
        The path.
    """
    path = Path(path)
    write_text(path, render(results, _explorer_pages(results, path.parent)))
    return path


def _explorer_pages(results: Results, start: Path) -> dict[str, str]:
    """Return the addresses, relative to a folder, of the comparison's explorer pages by the key of their image."""
    pages = pages_by_image(results.folder / EXPLORER)
    found = ((image.key, pages.get(image_id(results.folder / image.path))) for image in results.images)
    addresses = {key: Path(os.path.relpath(page, start)).as_posix() for key, page in found if page is not None}
    return {key: quote(address, errors="surrogateescape") for key, address in addresses.items()}


def render(results: Results, explorer_pages: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the HTML of a report, with links to explorer pages, given by the key of their image."""
    summary, failures, table = results.summary(), results.failures(), results.table()
    listed = results.images
    read = [image for image in listed if image.error is None]
    shown = [read[place * len(read) // SHOWN] for place in range(SHOWN)] if len(read) > SHOWN else read
    names = {image.key: image.name for image in listed}
    cited = "\n\n".join(
        citations([*results.methods, *methods_and_libraries(results.settings["methods"]), *results.metrics])
    )
    return render_page(
        "report.html.jinja",
        side_by_side=model_tables(summary, results.methods, failures, results.directions)
        if len(results.models) > 1
        else [],
        models=[_model_part(results, model, summary, failures, table) for model in results.models],
        shown=[show_image(results, image, table) for image in shown],
        explorer_pages=explorer_pages,
        images=listed,
        readable=len(read),
        failures=grouped_failures(failures, names),
        methods=results.settings["methods"],
        metrics=results.settings["metrics"],
        settings={
            name: value
            for name, value in results.settings.items()
            if name not in ("methods", "metrics") and value is not None
        },
        model_facts=results.model_facts,
        versions=results.versions,
        unfinished=results.unfinished,
        notes=results.notes(),
        citations=cited,
        bibtex=text_uri("text/x-bibtex", cited + "\n"),
        means=text_uri("text/csv", csv_text(summary)),
        policy=POLICY,
        first=FIRST,
    )


def _model_part(
    results: Results,
    model: str,
    summary: pd.DataFrame,
    failures: pd.DataFrame,
    table: pd.DataFrame,
) -> ModelPart:
    summary = summary[summary["model"] == model]
    heads = columns(table[table["model"] == model], results.directions)
    rows = summary_rows(summary, results.methods, heads, failures[failures["model"] == model])
    rankings = [
        themed(partial(ranking_of, summary, model, head.name), f"Methods ranked by {head.label}, {head.hint}")
        for head in heads
    ]
    curves = []
    for head in (head for head in heads if not head.cost):
        found = results.curves(model, head.name)
        if found:
            draw = partial(curves_of, found, head.name, head.direction, results.score_name(model))
            curves.append(themed(draw, f"Curves of {head.label} by method, {head.hint}"))
    stability = stability_rows(rank_stability(table[table["model"] == model], results.settings["metrics"]))
    agreement = None
    if len(results.methods) > 1:
        draw = partial(agreement_of, results.agreement(model))
        agreement = themed(draw, "Rank correlations between the maps of methods")
    best = best_by_metric(rows, heads)
    return ModelPart(model, heads, rows, best, rankings, curves, agreement, stability)
