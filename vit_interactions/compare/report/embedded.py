"""Pictures as addresses that hold their own data, so that a page needs nothing beside itself."""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import binary_erosion

from vit_interactions.figures.colors import map_colors
from vit_interactions.figures.values import Array
from vit_interactions.images.placement import Bounds

LONGEST = 400  # pixels of a photograph's longer side
QUALITY = 78
OUTLINE = 3  # pixels of a mask's outline
GREEN = (0x3D, 0xDC, 0x84, 0xFF)  # of objects, also in report.css
INK, NIGHT = "#22252b", "#dddad4"  # of text by day and by night
_INKED = (
    *("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"),
    "grid.color",
)


@dataclass(frozen=True)
class Picture:
    """A figure for light and for dark pages.

    Attributes:
        light: address of the picture by day.
        dark: by night.
        width: of the figure, in CSS pixels.
        alt: what it shows, in words.
    """

    light: Markup
    dark: Markup
    width: int
    alt: str


@dataclass(frozen=True)
class Tile:
    """Where a photograph and the patches lie on a canvas that holds both.

    Attributes:
        aspect: width by height of the canvas.
        photograph: (left, top, width, height) in percent of the canvas.
        patches: likewise.
        objects: likewise, the boxes around the photograph's objects.
    """

    aspect: float
    photograph: Bounds
    patches: Bounds
    objects: tuple[Bounds, ...] = ()


def tile(size: tuple[int, int], patches: Bounds, objects: Iterable[Bounds] = ()) -> Tile:
    """Lay a photograph and its patches out; where the input was padded, the patches exceed the photograph.

    Args:
        size: (width, height) of the photograph in pixels.
        patches: (left, top, right, bottom) of the area that they cover, in the photograph's pixels.
        objects: boxes around objects, likewise.

    Example:
        >>> tile((200, 100), (50, 0, 150, 100))
        Tile(aspect=2.0, photograph=(0.0, 0.0, 100.0, 100.0), patches=(25.0, 0.0, 50.0, 100.0), objects=())
    """
    across, down = size
    left, top = min(patches[0], 0.0), min(patches[1], 0.0)
    width, height = max(patches[2], across) - left, max(patches[3], down) - top

    def in_percent(box: Bounds) -> Bounds:
        x, y, right, bottom = box
        places = (x - left) / width, (y - top) / height, (right - x) / width, (bottom - y) / height
        return tuple(round(100 * place, 3) for place in places)  # type: ignore[return-value]

    photograph = in_percent((0, 0, across, down))
    return Tile(round(width / height, 4), photograph, in_percent(patches), tuple(map(in_percent, objects)))


def photograph_uri(image: Image.Image) -> Markup:
    """Give a photograph as a small JPEG."""
    small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST))
    file = BytesIO()
    small.save(file, "JPEG", quality=QUALITY, optimize=True)
    return _uri("image/jpeg", file.getvalue())


def outline_uri(mask: Array) -> Markup:
    """Give the outline of a mask as a PNG that is transparent elsewhere, and as small as a photograph's.

    Args:
        mask: (height, width) bool.
    """
    small = Image.fromarray(mask)
    small.thumbnail((LONGEST, LONGEST))
    inside = np.asarray(small)
    edge = inside & ~binary_erosion(inside, iterations=OUTLINE)
    file = BytesIO()
    Image.fromarray(edge[..., None] * np.array(GREEN, np.uint8), "RGBA").save(file, "PNG", optimize=True)
    return _uri("image/png", file.getvalue())


def map_uri(values: Array) -> Markup:
    """Give a map as a PNG of one pixel a patch, which a page enlarges.

    Raises:
        ValueError: a map of another shape than (rows, cols), or not finite.
    """
    file = BytesIO()
    Image.fromarray(map_colors(values)).save(file, "PNG", optimize=True)
    return _uri("image/png", file.getvalue())


def themed(draw: Callable[[], Figure], alt: str) -> Picture:
    """Draw a figure with dark and with light text on nothing, as SVG.

    Args:
        draw: makes the figure, in the colours of text that matplotlib's settings say.
        alt: what it shows, in words.
    """
    settings: dict[Any, Any] = dict.fromkeys(_INKED, INK)
    # Without a salt, names inside the file would differ each time.
    settings |= {"axes.facecolor": "none", "figure.facecolor": "none", "svg.hashsalt": "vit_interactions"}
    file = BytesIO()
    with matplotlib.rc_context(settings):
        figure = draw()
        figure.savefig(file, format="svg", metadata={"Date": None})
    light = file.getvalue()
    dark = light.replace(INK.encode(), NIGHT.encode())
    kind = "image/svg+xml"
    return Picture(_uri(kind, light), _uri(kind, dark), round(96 * figure.get_figwidth()), alt)


def text_uri(kind: str, text: str) -> Markup:
    """Give a text as a file to save; characters that no file can hold become "?"."""
    return _uri(f"{kind};charset=utf-8", text.encode("utf-8", "replace"))


def _uri(kind: str, content: bytes) -> Markup:
    """An address of base64 data, in which nothing needs escaping."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
