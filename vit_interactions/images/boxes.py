"""Object boxes: read them from a CSV file, assign them to images, and find the patches inside them."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.images.matching import match
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.utilities.files import check_regular_file, read_text

SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class ObjectBox:
    """A rectangle around an object, in pixels of the original image.

    Attributes:
        left: x of its left edge.
        top: y of its upper edge.
        right: x of its right edge.
        bottom: y of its lower edge.
        index: class index of the object; None if not given.
    """

    left: float
    top: float
    right: float
    bottom: float
    index: int | None = None


def read_boxes(path: Path) -> dict[str, list[ObjectBox]]:
    """Read a CSV file with columns file, left, top, right, bottom and, optionally, index.

    Args:
        path: the CSV file. Column "file" is the name of an image, preceded by folders if several images share the
            name; "index" is the class index. Other columns are ignored.

    Returns:
        The boxes per file, in row order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a regular file, a column is missing, or a row lacks four numbers with left < right and
            top < bottom or has an index that is not an integer >= 0.
        OSError: the file cannot be read.
    """
    check_regular_file("boxes", path)
    rows = csv.DictReader(io.StringIO(read_text("boxes", path), newline=""), strict=True)
    boxes: dict[str, list[ObjectBox]] = {}
    try:
        missing = [name for name in ("file", *SIDES) if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(
                f"`boxes` must have a column {' and '.join(missing)}, got {path} with "
                f"{', '.join(map(str, rows.fieldnames or ())) or 'no columns'}."
            )
        for row in rows:
            boxes.setdefault(row["file"], []).append(_read_box(row, rows.line_num, path))
    except csv.Error as error:
        raise ValueError(
            f"`boxes` must be a CSV file with every quote closed, got {error} in line {rows.line_num + 1} of {path}."
        ) from error
    return boxes


def _read_box(row: Mapping[str, Any], line: int, path: Path) -> ObjectBox:
    try:
        left, top, right, bottom = (float(row[side]) for side in SIDES)
        index = int(row["index"]) if row.get("index") else None
    except (ValueError, TypeError):  # not a number, or the row is too short
        left = top = right = bottom = float("nan")
        index = None
    if not (left < right and top < bottom and isfinite(right - left + bottom - top) and (index or 0) >= 0):
        shown = ", ".join(f"{name}={str(row[name])[:20]}" for name in (*SIDES, "index") if name in row)
        raise ValueError(
            "`boxes` must have numbers left < right and top < bottom, and an index >= 0, got "
            f"{shown} in line {line} of {path}."
        )
    return ObjectBox(left, top, right, bottom, index)


def boxes_by_image(
    boxes: Mapping[str, Sequence[ObjectBox]], images: Sequence[Path]
) -> dict[Path, list[ObjectBox]]:
    """Assign boxes to images whose paths end in the names of the boxes.

    Args:
        boxes: from `read_boxes`.
        images: image paths, at least one.

    Returns:
        The boxes per image, in the order of the names; an empty list if no name matches.

    Raises:
        ValueError: a name matches several images, or no name matches any image.

    Example:
        >>> cats = [Path("a/cat.png"), Path("b/cat.png")]
        >>> [len(own) for own in boxes_by_image({"b/cat.png": [ObjectBox(0, 0, 1, 1)]}, cats).values()]
        [0, 1]
    """
    found = match("boxes", map(PurePath, boxes), images)
    if boxes and not found:
        name, other = images[0].name, next(iter(boxes))
        raise ValueError(f"`boxes` must name the images in column file, e.g. {name!r}, got e.g. {other!r}.")
    own: dict[Path, list[ObjectBox]] = {path: [] for path in images}
    for name, of_name in boxes.items():
        if PurePath(name) in found:
            own[found[PurePath(name)]] += of_name
    return own


def unused_boxes(boxes: Mapping[str, Sequence[ObjectBox]], images: Sequence[Path]) -> list[str]:
    """Report how many rows name no image: one line, or none if all rows match.

    Example:
        >>> unused_boxes({"cat.png": [ObjectBox(0, 0, 1, 1)], "dog.png": [ObjectBox(0, 0, 1, 1)]}, [Path("cat.png")])
        ["1 of 2 rows of `boxes` match no image and are not used, e.g. 'dog.png'"]
    """
    found = match("boxes", map(PurePath, boxes), images)
    unused = {name: len(rows) for name, rows in boxes.items() if PurePath(name) not in found}
    if not unused:
        return []
    counts = f"{sum(unused.values())} of {sum(map(len, boxes.values()))}"
    return [f"{counts} rows of `boxes` match no image and are not used, e.g. {next(iter(unused))!r}"]


def boxes_of_class(boxes: Iterable[ObjectBox], target: int | None) -> list[ObjectBox]:
    """Return the boxes of a class, and those without a class, which match any.

    Example:
        >>> boxes_of_class([ObjectBox(0, 0, 1, 1, index=3), ObjectBox(0, 0, 2, 2)], 7)
        [ObjectBox(left=0, top=0, right=2, bottom=2, index=None)]
    """
    return [box for box in boxes if box.index is None or box.index == target]


def inside_boxes(prepared: PreparedImage, layout: TokenLayout, boxes: Sequence[ObjectBox]) -> Tensor:
    """Return the patches whose center lies in a box: (rows, cols) bool."""
    inside = torch.zeros(layout.grid, dtype=torch.bool, device="cpu")
    for row in range(layout.rows):
        for col in range(layout.cols):
            left, top, right, bottom = prepared.patch_box(row, col, layout)
            x, y = (left + right) / 2, (top + bottom) / 2
            inside[row, col] = any(box.left <= x <= box.right and box.top <= y <= box.bottom for box in boxes)
    return inside
