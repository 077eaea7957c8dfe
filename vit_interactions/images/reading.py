"""Read images as a viewer shows them: upright, in RGB, and only formats that Pillow decodes by itself.

Pillow hands some formats to other programs: it runs EPS files in Ghostscript, whatever their names. Every image of
this package is opened here, by a list of safe formats.
"""

from os import PathLike
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from vit_interactions.files import check_regular_file

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# A model's transform enlarges the shorter side to the model's size, and the longer side with it: a PNG of 1 x 1,000,000
# pixels takes 2 kB on the disk and gigabytes once it is resized.
LONGEST = 200  # times the shorter side
# What Pillow cannot name by a file's first bytes.
OTHERS = {
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"\xd0\xcf\x11\xe0": "FlashPix or another OLE file",
    b"PK\x03\x04": "a ZIP archive",
}
NAMES = {"EPS": "EPS/PostScript", "WMF": "WMF/EMF"}
# Pillow scales these gray values to 8 bits, but not the one that tRNS declares transparent.
GRAY_STEPS = {"L;2": 85, "L;4": 17}


def read_image(file: str | PathLike[str] | IO[bytes]) -> Image.Image:
    """Read an image as a viewer shows it: upright by its EXIF orientation, in RGB, transparent parts white.

    16-bit values are scaled to 8 bits; of an animation or a multi-page file, the first frame is read.

    Args:
        file: path, or an open binary file.

    Returns:
        The image, loaded into memory.

    Raises:
        FileNotFoundError: no such file, or a broken link.
        ValueError: not a regular file, not one of the supported formats, damaged, or of a size or depth that cannot be
            shown; the text says which.

    Example:
        >>> from io import BytesIO
        >>> png = BytesIO()
        >>> Image.new("1", (3, 2), 1).save(png, "png")
        >>> read_image(png).getpixel((0, 0))
        (255, 255, 255)
        >>> read_image(BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0"))
        Traceback (most recent call last):
            ...
        ValueError: `image` is EPS/PostScript, which is not a supported image format. Convert it to PNG or JPEG.
    """
    name = getattr(file, "name", "image") if hasattr(file, "read") else file
    if not hasattr(file, "read"):
        check_regular_file("image", file)
    try:
        with Image.open(file, formats=known_formats()) as image:
            return upright_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"`{name}` is too large an image: {error}") from error
    except UnidentifiedImageError as error:
        found = _found_format(file)
        if found:
            raise ValueError(
                f"`{name}` is {found}, which is not a supported image format. Convert it to PNG or JPEG."
            ) from error
        raise ValueError(f"`{name}` is not an image that can be read: cannot identify its format") from error
    except Exception as error:  # Decoders of broken files raise nearly anything: SyntaxError, struct.error, ...
        raise ValueError(f"`{name}` is not an image that can be read: {_reason(error)}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, upright by its EXIF orientation, transparent parts white.

    Args:
        image: Pillow's; it is not changed. An image that was converted before comes out the same.

    Raises:
        ValueError: opened from a file of an unsupported format, far longer than wide, or with values of more than 16
            bits, whose range is not known.

    Example:
        >>> upright_rgb(Image.new("I;16", (1, 1), 32768)).getpixel((0, 0))
        (128, 128, 128)
    """
    _check_shown(image)
    key = _transparent_color(image)
    deep = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    upright = ImageOps.exif_transpose(image)
    if key is not None:
        upright.info["transparency"] = key
    if upright.mode[0] in "IF":
        upright = _to_8_bits(upright, deep=deep)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    rgba = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def known_formats() -> list[str]:
    """Return the supported formats that this version of Pillow has a decoder for.

    Example:
        >>> "PNG" in known_formats(), "EPS" in known_formats()
        (True, False)
    """
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def image_extensions() -> set[str]:
    """Return the extensions of supported formats, in lower case with their dot.

    Example:
        >>> {".jpg", ".png"} <= image_extensions(), {".eps", ".pdf"} & image_extensions()
        (True, set())
    """
    return {extension for extension, name in Image.registered_extensions().items() if name in FORMATS}


def _check_shown(image: Image.Image) -> None:
    """Raise ValueError for an image that must not be loaded: by its format or its shape."""
    if isinstance(image, ImageFile.ImageFile) and image.format not in FORMATS:
        name = NAMES.get(str(image.format), image.format)
        raise ValueError(f"`image` must be one of {', '.join(FORMATS)}, got {name}. Convert it to PNG or JPEG.")
    width, height = image.size
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(
            f"`image` must be at most {LONGEST} times as long as it is wide, got {width} x {height} pixels. Crop it."
        )


def _transparent_color(image: Image.Image) -> Any:
    """Return the color or gray value that is transparent, on the scale of the loaded pixels; None: none."""
    key = image.info.get("transparency")
    raw = {tile[3] for tile in getattr(image, "tile", ()) if isinstance(tile[3], str)}
    if (key is not None and "RGB;16B" in raw) or (isinstance(key, tuple) and max(key) > 255):
        raise ValueError(
            "`image` must have 8 bits per channel where one color is transparent, got 16 bits. Convert it to RGBA."
        )
    steps = GRAY_STEPS.get(next(iter(raw), ""), 1)
    return key * steps if isinstance(key, int) else key


def _to_8_bits(image: Image.Image, *, deep: bool) -> Image.Image:
    """Scale 16-bit gray values to 8 bits, with alpha where one of them is transparent."""
    values: np.ndarray[Any, Any] = np.asarray(image)
    if not deep:
        raise ValueError(
            f"`image` must have 8 or 16 bits per channel, got {values.dtype} values from {values.min()} to "
            f"{values.max()}, whose range is not known. Convert it to 8 bits."
        )
    gray = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if "transparency" in image.info:
        gray.putalpha(Image.fromarray(np.uint8(255) * (values != image.info["transparency"])))
    return gray


def _found_format(file: Any) -> str:
    """Name the unsupported format of a file by its first bytes, without decoding it; empty if they are not known."""
    if hasattr(file, "read"):
        file.seek(0)
        start = file.read(16)
    else:
        with open(file, "rb") as opened:
            start = opened.read(16)
    for name, (_, accepts) in Image.OPEN.items():
        if name not in FORMATS and accepts is not None and accepts(start):
            return NAMES.get(name, name)
    if start[4:12] in (b"ftypheic", b"ftypheix"):
        return "HEIC"
    return next((name for magic, name in OTHERS.items() if start.startswith(magic)), "")


def _reason(error: Exception) -> str:
    """Say what went wrong without the file's name, which Pillow and the system repeat."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
