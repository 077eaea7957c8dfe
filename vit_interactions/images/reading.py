"""Read images as a viewer shows them: upright, in RGB, and only formats that Pillow itself decodes.

Pillow passes some formats to other programs: it runs EPS files in Ghostscript, whatever their extension. All images
in this package are opened here, with an allowlist of safe formats.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.files import check_regular_file
from vit_interactions.utilities.text import describe_error

File = str | PathLike[str] | IO[bytes]
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# Transforms scale the shorter side to the model's size, and the longer side with it: a PNG of 1 x 1,000,000 pixels
# takes 2 kB on disk and gigabytes once resized.
LONGEST = 200  # times the shorter side
# Bytes among a file's first 16 -> its format, for error messages.
SIGNATURES = {
    b"%!PS": "EPS/PostScript",
    b"\xc5\xd0\xd3\xc6": "EPS/PostScript",
    b"%PDF": "PDF",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"8BPS": "PSD",
    b"<svg": "SVG",
    b"ftyphei": "HEIC",
    b"\x89HDF": "HDF5",
    b"SIMPLE  =": "FITS",
    b"\xd0\xcf\x11\xe0": "FlashPix or another OLE file",
    b"PK\x03\x04": "a ZIP archive",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"WEBP": "WEBP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
# Pillow scales these gray values to 8 bits, but not the transparent one given by tRNS.
GRAY_STEPS = {"L;2": 85, "L;4": 17}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(file: File) -> Image.Image:
    """Read an image as a viewer shows it: upright by its EXIF orientation, in RGB, transparent parts white.

    16-bit values are scaled to 8 bits. Only the first frame of animations and multi-page files is read.

    Args:
        file: path or open binary file.

    Returns:
        The image, loaded into memory.

    Raises:
        FileNotFoundError: the file does not exist, or is a broken link.
        ValueError: not a regular file, damaged, or of an unsupported format, shape or bit depth.

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
    return decode(file, to_rgb)


def decode(
    file: File, convert: Callable[[Image.Image], Image.Image], formats: Sequence[str] = FORMATS
) -> Image.Image:
    """Open an image file of one of several formats and convert it; shared by `read_image` and `read_mask`.

    Args:
        file: path or open binary file.
        convert: loads the opened image and returns one that is independent of the file.
        formats: allowed formats, by Pillow's names.

    Raises:
        FileNotFoundError: the file does not exist, or is a broken link.
        ValueError: same as in `read_image`.
    """
    name = file
    if not isinstance(file, str | PathLike):
        name = getattr(file, "name", "image")
    else:
        check_regular_file("image", file)
    Image.init()
    try:
        # Older versions of Pillow lack some formats.
        with Image.open(file, formats=[known for known in formats if known in Image.OPEN]) as image:
            return convert(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"`{name}` is too large an image: {error}") from error
    except UnidentifiedImageError as error:
        found = _found_format(file, formats)
        if not found:
            raise ValueError(f"`{name}` is not an image that can be read: cannot identify its format") from error
        wanted = " or ".join(known for known in ("PNG", "JPEG") if known in formats)
        raise ValueError(
            f"`{name}` is {found}, which is not a supported image format. Convert it to {wanted}."
        ) from error
    # Decoders raise almost any exception for broken files: SyntaxError, struct.error, ...
    except Exception as error:
        raise ValueError(f"`{name}` is not an image that can be read: {_reason(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, upright by its EXIF orientation, transparent parts white.

    Args:
        image: PIL image; it is not modified. Converting twice gives the same result.

    Raises:
        ValueError: same as in `upright`, or more than 16 bits per channel, with an unknown range of values.

    Example:
        >>> to_rgb(Image.new("I;16", (1, 1), 32768)).getpixel((0, 0))
        (128, 128, 128)
    """
    shown = upright(image)
    if shown.mode[0] in "IF":
        shown = _to_8_bits(shown, sixteen=shown.mode.startswith("I;16") or image.format in ("PNG", "PPM"))
    if shown.has_transparency_data:
        rgba = shown.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = shown.convert("RGB")
    rgb.info.clear()  # so that its orientation is not applied twice
    return rgb


def upright(image: Image.Image) -> Image.Image:
    """Return a loaded copy of an image in its own mode, turned by its EXIF orientation.

    Args:
        image: PIL image; it is not modified.

    Returns:
        The copy. Unlike in Pillow, the transparent value in `info` has the same scale as the pixels.

    Raises:
        ValueError: the file format is not supported, the image is far longer than wide, or one 16-bit color is
            transparent, which Pillow does not represent exactly.
    """
    _check_shown(image)
    transparent = _transparent_color(image)
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Damaged EXIF raises almost any exception, and viewers ignore it.
        turn = None
    turned = image.copy() if turn is None else image.transpose(turn)
    if transparent is not None:
        turned.info["transparency"] = transparent
    return turned


def opaque_pixels(image: Image.Image) -> Array:
    """Return the pixels that are not fully transparent: (height, width) bool.

    Args:
        image: from `upright`.
    """
    opaque = np.ones((image.height, image.width), bool)
    if "transparency" in image.info and image.mode[0] == "I":
        opaque &= np.asarray(image) != image.info["transparency"]
    elif image.has_transparency_data:
        opaque &= np.asarray(image.convert("RGBA"))[..., 3] > 0
    return opaque


def image_extensions() -> set[str]:
    """Return the file extensions of supported formats, lowercase with the dot.

    Example:
        >>> {".jpg", ".png"} <= image_extensions(), {".eps", ".pdf"} & image_extensions()
        (True, set())
    """
    return {extension for extension, name in Image.registered_extensions().items() if name in FORMATS}


def _check_shown(image: Image.Image) -> None:
    """Raise ValueError if the format or the shape of an image is not supported."""
    if isinstance(image, ImageFile.ImageFile) and image.format not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(f"`image` must be one of {known}, got {image.format}. Convert it to PNG or JPEG.")
    width, height = image.size
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(
            f"`image` must be at most {LONGEST} times as long as it is wide, got {width} x {height} pixels. Crop it."
        )


def _transparent_color(image: Image.Image) -> Any:
    """Return the transparent color or gray value on the scale of the loaded pixels; None if none is."""
    key = image.info.get("transparency")
    raw = {tile[3] for tile in getattr(image, "tile", ()) if isinstance(tile[3], str)}
    if (key is not None and "RGB;16B" in raw) or (isinstance(key, tuple) and max(key) > 255):
        raise ValueError(
            "`image` must have 8 bits per channel where one color is transparent, got 16 bits. Convert it to RGBA."
        )
    if not isinstance(key, int):
        return key
    if image.mode == "1":
        return 255 * bool(key)
    return key * GRAY_STEPS.get(next(iter(raw), ""), 1)


def _to_8_bits(image: Image.Image, *, sixteen: bool) -> Image.Image:
    """Scale 16-bit gray values to 8 bits, with an alpha channel for transparent ones."""
    values: Array = np.asarray(image)
    if not sixteen:
        raise ValueError(
            f"`image` must have 8 or 16 bits per channel, got {values.dtype} values from {values.min()} to "
            f"{values.max()}, whose range is unknown. Convert it to 8 bits."
        )
    gray = Image.fromarray(np.round(values / 257).astype(np.uint8))
    gray.putalpha(Image.fromarray(np.uint8(255) * opaque_pixels(image)))
    return gray


def _found_format(file: File, formats: Sequence[str]) -> str:
    """Return the unsupported format of a file, identified by its first bytes; "" if unknown."""
    if isinstance(file, str | PathLike):
        with open(file, "rb") as opened:
            start = opened.read(16)
    else:
        file.seek(0)
        start = file.read(16)
    return next((name for magic, name in SIGNATURES.items() if magic in start and name not in formats), "")


def _reason(error: Exception) -> str:
    """Describe an error without the file name, which Pillow and the OS repeat."""
    return getattr(error, "strerror", None) or describe_error(error)
