"""The images that a report shows, each with its maps under every model."""

from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from vit_interactions.compare.manifest import ListedImage
from vit_interactions.compare.records import Record
from vit_interactions.compare.report.embedded import Tile, clipped_path, image_uri, map_uri, outline_uri, tile
from vit_interactions.compare.report.tables import Column, MethodRow, columns, value_rows
from vit_interactions.compare.results import Results
from vit_interactions.figures.display import scale_remark
from vit_interactions.images.masks import read_mask
from vit_interactions.loading.predictions import prediction_text
from vit_interactions.utilities.arrays import Array


@dataclass(frozen=True)
class ShownMap:
    """The map of one method, as a page shows it.

    Attributes:
        method: its name.
        address: of the map as a PNG.
        grid: (rows, cols).
        clipped: the triangles on clipped patches, from `clipped_path`.
        remark: "constant" or "log scale", or "".
    """

    method: str
    address: Markup
    grid: tuple[int, int]
    clipped: str
    remark: str


@dataclass(frozen=True)
class ShownRecord:
    """One image under one model, as a page shows it, with its maps in the order of the methods."""

    model: str
    prediction: str
    tile: Tile
    heads: list[Column]
    maps: list[ShownMap]
    absent: list[str]
    rows: list[MethodRow]


@dataclass(frozen=True)
class ShownImage:
    """One image of a page. `address` is None if the file is missing, `outline` if there is no readable mask."""

    key: str
    name: str
    address: Markup | None
    outline: Markup | None
    records: list[ShownRecord]


def show_image(results: Results, image: ListedImage, table: pd.DataFrame) -> ShownImage:
    """Prepare an image with its maps and values for a page.

    Args:
        results: that it belongs to.
        image: one that has been read.
        table: from `Results.table`; rows of other images are ignored.
    """
    table = table[table["image"] == image.key]
    records = [
        show_record(results, model, image, record, table[table["model"] == model])
        for model in results.models
        for _, record in results.records(model, [image.key])
        if record.maps
    ]
    return ShownImage(image.key, image.name, _address(results, image.key), _outline(image), records)


def show_record(
    results: Results, model: str, image: ListedImage, record: Record, table: pd.DataFrame
) -> ShownRecord:
    """Prepare an image under one model for a page; arguments as in `show_image`, with the rows of the model."""
    size, layout, placement = record.geometry()
    height, width = layout.extent
    boxes = [(box.left, box.top, box.right, box.bottom) for box in image.boxes]
    heads = columns(table, results.directions)
    methods = results.methods
    return ShownRecord(
        model,
        prediction_text(record.prediction, record.target_class),
        tile(size, placement.box(0, 0, width, height), boxes),
        heads,
        [_show_map(name, record.maps[name]) for name in methods if name in record.maps],
        [name for name in methods if name not in record.maps],
        value_rows(table, methods, heads),
    )


def _show_map(method: str, values: Array) -> ShownMap:
    rows, cols = values.shape
    return ShownMap(method, map_uri(values), (rows, cols), clipped_path(values), scale_remark(values))


def _outline(image: ListedImage) -> Markup | None:
    """Return the outline of the image's mask; None without a mask of its size."""
    if image.mask is None or image.size is None:
        return None
    try:
        return outline_uri(read_mask(image.mask, image.size))
    except ValueError:  # listed among the failures
        return None


def _address(results: Results, key: str) -> Markup | None:
    """Return the image as an address; None if its file is gone."""
    try:
        return image_uri(results.image(key))
    except (OSError, ValueError):
        return None
