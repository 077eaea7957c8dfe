"""Images and figures as data URIs, so that a page needs no other file."""

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

from vit_interactions.figures.display import clipped, map_colors, map_scale, triangles
from vit_interactions.figures.shown import CSS_PIXELS
from vit_interactions.images.placement import Bounds, around_both
from vit_interactions.utilities.arrays import Array

LONGEST = 400  # pixels of an image's longer side
QUALITY = 78
OUTLINE = 3  # pixels of a mask's outline
GREEN = (0x3D, 0xDC, 0x84, 0xFF)  # of objects, as in report.css
INK, NIGHT = "#22252b", "#dddad4"  # of text on light and dark pages
_INKED = (
    *("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"),
    "grid.color",
)


@dataclass(frozen=True)
class ThemedFigure:
    """A figure for light and for dark pages.

    Attributes:
        light: address of the version for light pages.
        dark: of that for dark pages.
        width: in CSS pixels.
        alt: description for screen readers.
    """

    light: Markup
    dark: Markup
    width: int
    alt: str


@dataclass(frozen=True)
class Tile:
    """Position of an image and of the patches on a canvas around both.

    Attributes:
        aspect: width by height of the canvas.
        image: (left, top, width, height) in percent of the canvas.
        patches: in percent of the canvas.
        objects: in percent, boxes around the image's objects.
    """

    aspect: float
    image: Bounds
    patches: Bounds
    objects: tuple[Bounds, ...] = ()


def tile(size: tuple[int, int], patches: Bounds, objects: Iterable[Bounds] = ()) -> Tile:
    """Place an image and its patches on a canvas; if the input was padded, the patches exceed the image.

    Args:
        size: (width, height) of the image in pixels.
        patches: (left, top, right, bottom) of the area that they cover, in pixels of the image.
        objects: boxes around objects, in pixels of the image.

    Example:
        >>> tile((200, 100), (50, 0, 150, 100))
        Tile(aspect=2.0, image=(0.0, 0.0, 100.0, 100.0), patches=(25.0, 0.0, 50.0, 100.0), objects=())
    """
    across, down = size
    left, top, right, bottom = around_both(size, patches)
    width, height = right - left, bottom - top

    def in_percent(box: Bounds) -> Bounds:
        x, y, right, bottom = box
        places = (x - left) / width, (y - top) / height, (right - x) / width, (bottom - y) / height
        return tuple(round(100 * place, 3) for place in places)  # type: ignore[return-value]

    image = in_percent((0, 0, across, down))
    return Tile(round(width / height, 4), image, in_percent(patches), tuple(map(in_percent, objects)))


def image_uri(image: Image.Image) -> Markup:
    """Return an image as a small JPEG."""
    small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST))
    file = BytesIO()
    small.save(file, "JPEG", quality=QUALITY, optimize=True)
    return _uri("image/jpeg", file.getvalue())


def outline_uri(mask: Array) -> Markup:
    """Return the outline of a mask as a PNG, transparent elsewhere, in the size of `image_uri`.

    Args:
        mask: (height, width) bool.
    """
    small = Image.fromarray(mask)
    small.thumbnail((LONGEST, LONGEST))
    inside = np.asarray(small)
    edge = inside & ~binary_erosion(inside, iterations=OUTLINE)
    return _png_uri(Image.fromarray(edge[..., None] * np.array(GREEN, np.uint8), "RGBA"))


def map_uri(values: Array) -> Markup:
    """Return a map as a translucent PNG of one pixel per patch, which a page enlarges.

    Raises:
        ValueError: a map of another shape than (rows, cols), or not finite.
    """
    return _png_uri(Image.fromarray(map_colors(values)))


def clipped_path(values: Array) -> str:
    """Return the triangles on clipped patches of a map as an SVG path, in patches; "" if none are.

    Example:
        >>> clipped_path(np.array([[*np.linspace(0.1, 0.2, 99), 7.0]]))
        'M99.5 0.3L99.7 0.7L99.3 0.7Z'
    """
    marked = zip(clipped(values, map_scale(values)), (False, True), strict=True)
    shapes = [shape for cells, up in marked for shape in triangles(cells, up=up)]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shape) + "Z" for shape in shapes)


def themed(draw: Callable[[], Figure], alt: str) -> ThemedFigure:
    """Draw a figure as SVG, with dark and with light text on a transparent background.

    Args:
        draw: makes the figure, with the text colors of matplotlib's settings.
        alt: description for screen readers.
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
    return ThemedFigure(_uri(kind, light), _uri(kind, dark), round(CSS_PIXELS * figure.get_figwidth()), alt)


def text_uri(kind: str, text: str) -> Markup:
    """Return a text as a file to save; characters without an encoding become "?"."""
    return _uri(f"{kind};charset=utf-8", text.encode("utf-8", "replace"))


def _png_uri(image: Image.Image) -> Markup:
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return _uri("image/png", file.getvalue())


def _uri(kind: str, content: bytes) -> Markup:
    """Return a base64 data URI, in which nothing needs escaping."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
