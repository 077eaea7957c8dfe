"""A comparison as one HTML file that needs no network and no server.

What came from outside (names of files, classes and models, reasons of failures) is escaped wherever it stands, and the
page's security policy lets no other script run than its own, which its hash names, and nothing be fetched.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

import vit_interactions
from vit_interactions.compare.citations import citations
from vit_interactions.compare.colors import POLICY
from vit_interactions.compare.figures import (
    agreement_of,
    curves_of,
    prediction_text,
    ranking_of,
)
from vit_interactions.compare.masks import read_mask
from vit_interactions.compare.pictures import (
    Picture,
    Tile,
    map_uri,
    outline_uri,
    photograph_uri,
    text_uri,
    themed,
    tile,
)
from vit_interactions.compare.plan import CONTROL
from vit_interactions.compare.report_tables import (
    Best,
    Column,
    Row,
    best_by_metric,
    columns,
    grouped_failures,
    summary_rows,
    value_rows,
)
from vit_interactions.files import write_text
from vit_interactions.wording import printable

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


@dataclass(frozen=True)
class ShotPart:
    """What a report shows of one photograph under one model: `maps` are method and address, in the methods' order."""

    model: str
    prediction: str
    place: Tile
    heads: list[Column]
    maps: list[tuple[str, Markup]]
    absent: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Shot:
    """One photograph of a report; `picture` is None where the file is gone, `outline` where no mask can be read."""

    name: str
    picture: Markup | None
    outline: Markup | None
    parts: list[ShotPart]


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
    environment = _environment()
    script = _source(environment, "report.js")
    cited = "\n\n".join(citations([*comparison.methods, *comparison.metrics, *_libraries(comparison)]))
    return environment.get_template("report.html.jinja").render(
        models=[_model_part(comparison, model, summary, failures, table) for model in comparison.models],
        shots=[_shot(comparison, photograph, table) for photograph in shown],
        photographs=listed,
        readable=len(read),
        failures=grouped_failures(failures, names),
        methods=comparison.settings["methods"],
        metrics=comparison.settings["metrics"],
        settings={
            name: value for name, value in comparison.settings.items() if name not in ("methods", "metrics")
        },
        versions=comparison.versions,
        unfinished=comparison.unfinished,
        notes=comparison.notes(),
        citations=cited,
        bibtex=text_uri("text/x-bibtex", cited + "\n"),
        means=text_uri("text/csv", summary.to_csv(index=False)),
        version=vit_interactions.__version__,
        policy=POLICY,
        control=CONTROL,
        style=Markup(_source(environment, "report.css")),
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
            draw = partial(curves_of, found, head.name, head.direction)
            curves.append(themed(draw, f"Curves of {head.label} by method, {head.hint}"))
    agreement = None
    if len(comparison.methods) > 1:
        draw = partial(agreement_of, comparison.agreement(model))
        agreement = themed(draw, "Rank correlations between the maps of methods")
    return ModelPart(model, heads, rows, best_by_metric(rows, heads), rankings, curves, agreement)


def _shot(comparison: "Comparison", photograph: Mapping[str, Any], table: pd.DataFrame) -> Shot:
    key = photograph["key"]
    table = table[table["photograph"] == key]
    objects = [(box["left"], box["top"], box["right"], box["bottom"]) for box in photograph["boxes"]]
    parts = []
    for model in comparison.models:
        maps = comparison.maps(model, key)
        if not maps:
            continue
        view = comparison.view(model, key)
        height, width = view.layout.extent
        own = table[table["model"] == model]
        heads = columns(own, comparison.directions)
        parts.append(
            ShotPart(
                model,
                prediction_text(view),
                tile(photograph["size"], view.placement.box(0, 0, width, height), objects),
                heads,
                [(method, map_uri(maps[method])) for method in comparison.methods if method in maps],
                [method for method in comparison.methods if method not in maps],
                value_rows(own, comparison.methods, heads),
            )
        )
    return Shot(photograph["name"], _picture(comparison, key), _outline(photograph), parts)


def _outline(photograph: Mapping[str, Any]) -> Markup | None:
    """The outline of the photograph's mask, if there is one of its size."""
    if photograph.get("mask") is None:
        return None
    try:
        return outline_uri(read_mask(Path(photograph["mask"]), tuple(photograph["size"])))
    except ValueError:  # the failures say so
        return None


def _picture(comparison: "Comparison", key: str) -> Markup | None:
    """The photograph, if it is still where it was."""
    try:
        return photograph_uri(comparison.image(key))
    except (OSError, ValueError):
        return None


def _libraries(comparison: "Comparison") -> list[str]:
    return [str(method.get("library")) for method in comparison.settings["methods"].values()]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vit_interactions.compare"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["value"] = _in_words
    return environment


def _source(environment: jinja2.Environment, name: str) -> str:
    """Read a file that stands beside the template."""
    if environment.loader is None:
        raise RuntimeError("The environment must have a loader.")
    return environment.loader.get_source(environment, name)[0]


def _printable(value: Any) -> Any:
    """Keep what is no character out of the page: control characters, halves of surrogates, changes of direction."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value, lines=True)


def _in_words(value: Any) -> str:
    """Write a setting as people read it."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value:
        return ", ".join(f"{name} = {_in_words(each)}" for name, each in value.items())
    return json.dumps(value, ensure_ascii=False)
