"""Photographs of a report, each with its maps under every model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from vit_interactions.compare.report.embedded import Tile, map_uri, outline_uri, photograph_uri, tile
from vit_interactions.compare.report.figures import prediction_text
from vit_interactions.compare.report.tables import Column, Row, columns, value_rows
from vit_interactions.figures.values import is_constant
from vit_interactions.images.masks import read_mask

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison


@dataclass(frozen=True)
class ShotPart:
    """What a report shows of one photograph under one model.

    `maps` are method, address, and whether the map has one value only, in the methods' order.
    """

    model: str
    prediction: str
    place: Tile
    heads: list[Column]
    maps: list[tuple[str, Markup, bool]]
    absent: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Shot:
    """One photograph of a report; `picture` is None where the file is gone, `outline` where no mask can be read."""

    name: str
    picture: Markup | None
    outline: Markup | None
    parts: list[ShotPart]


def make_shot(comparison: "Comparison", photograph: Mapping[str, Any], table: pd.DataFrame) -> Shot:
    """Put a photograph's maps and values together.

    Args:
        comparison: of which it is one.
        photograph: of `Comparison.photographs`, one that has been read.
        table: as `Comparison.table`; rows of other photographs are left out.
    """
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
                [
                    (method, map_uri(maps[method]), is_constant(maps[method]))
                    for method in comparison.methods
                    if method in maps
                ],
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
