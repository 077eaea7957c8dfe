"""A comparison as one HTML file that needs no network and no server.

What came from outside (names of files, classes and models, reasons of failures) is escaped wherever it stands, and the
page's security policy lets no other script run than its own, which its hash names, and nothing be fetched.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from vit_interactions.compare.report.citations import citations
from vit_interactions.compare.report.embedded import Picture, text_uri, themed
from vit_interactions.compare.report.figures import agreement_of, curves_of, ranking_of
from vit_interactions.compare.report.rendering import source, templates
from vit_interactions.compare.report.shots import make_shot
from vit_interactions.compare.report.tables import (
    Best,
    Column,
    Row,
    best_by_metric,
    columns,
    grouped_failures,
    model_tables,
    summary_rows,
)
from vit_interactions.figures.colors import POLICY
from vit_interactions.utilities.files import write_text

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison

SHOWN = 150  # photographs whose maps are in the page, which would else grow beyond what opens quickly


@dataclass(frozen=True)
class ModelPart:
    """What a report says of one model over all photographs."""

    name: str
    heads: list[Column]
    rows: list[Row]
    best: list[Best]
    rankings: list[Picture]
    curves: list[Picture]
    agreement: Picture | None


def report(comparison: "Comparison", path: str | PathLike[str]) -> Path:
    """Write a comparison as one HTML file: tables, figures, every photograph with its maps, and what to cite.

    Of more than 150 photographs, 150 are shown, evenly spread; tables and figures are over all.

    Args:
        comparison: finished or not.
        path: of the file to write; what was there is replaced when the new one is whole.

    Returns:
        The path.
    """
    path = Path(path)
    write_text(path, render(comparison))
    return path


def render(comparison: "Comparison") -> str:
    """Give the report's HTML."""
    summary, failures, table = comparison.summary(), comparison.failures(), comparison.table()
    listed = comparison.photographs
    read = [photograph for photograph in listed if not photograph.get("error")]
    shown = [read[place * len(read) // SHOWN] for place in range(SHOWN)] if len(read) > SHOWN else read
    names = {photograph["key"]: photograph["name"] for photograph in listed}
    environment = templates()
    script = source(environment, "report.js")
    cited = "\n\n".join(citations([*comparison.methods, *_methods_and_libraries(comparison), *comparison.metrics]))
    return environment.get_template("report.html.jinja").render(
        side_by_side=model_tables(summary, comparison.methods, failures, comparison.directions)
        if len(comparison.models) > 1
        else [],
        models=[_model_part(comparison, model, summary, failures, table) for model in comparison.models],
        shots=[make_shot(comparison, photograph, table) for photograph in shown],
        photographs=listed,
        readable=len(read),
        failures=grouped_failures(failures, names),
        methods=comparison.settings["methods"],
        metrics=comparison.settings["metrics"],
        settings={
            name: value
            for name, value in comparison.settings.items()
            if name not in ("methods", "metrics") and value is not None
        },
        model_facts=comparison.model_facts,
        versions=comparison.versions,
        unfinished=comparison.unfinished,
        notes=comparison.notes(),
        citations=cited,
        bibtex=text_uri("text/x-bibtex", cited + "\n"),
        means=text_uri("text/csv", summary.to_csv(index=False)),
        version=version("vit_interactions"),
        policy=POLICY,
        style=Markup(source(environment, "report.css") + source(environment, "tiles.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _model_part(
    comparison: "Comparison",
    model: str,
    summary: pd.DataFrame,
    failures: pd.DataFrame,
    table: pd.DataFrame,
) -> ModelPart:
    summary = summary[summary["model"] == model]
    heads = columns(table[table["model"] == model], comparison.directions)
    rows = summary_rows(summary, comparison.methods, heads, failures[failures["model"] == model])
    rankings = [
        themed(partial(ranking_of, summary, model, head.name), f"Methods ranked by {head.label}, {head.hint}")
        for head in heads
    ]
    curves = []
    for head in (head for head in heads if not head.cost):
        found = comparison.curves(model, head.name)
        if found:
            draw = partial(curves_of, found, head.name, head.direction, comparison.score_words(model))
            curves.append(themed(draw, f"Curves of {head.label} by method, {head.hint}"))
    agreement = None
    if len(comparison.methods) > 1:
        draw = partial(agreement_of, comparison.agreement(model))
        agreement = themed(draw, "Rank correlations between the maps of methods")
    return ModelPart(model, heads, rows, best_by_metric(rows, heads), rankings, curves, agreement)


def _methods_and_libraries(comparison: "Comparison") -> list[str]:
    described = comparison.settings["methods"].values()
    return [str(method.get(key)) for method in described for key in ("method", "library")]
