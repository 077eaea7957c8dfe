"""Read images as a viewer shows them: upright, in RGB, and only formats that Pillow decodes by itself.

Pillow hands some formats to other programs: it runs EPS files in Ghostscript, whatever their names. Every image of
this package is opened here, by a list of safe formats.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from vit_interactions.utilities.files import check_regular_file

File = str | PathLike[str] | IO[bytes]
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# A model's transform enlarges the shorter side to the model's size, and the longer side with it: a PNG of 1 x 1,000,000
# pixels takes 2 kB on the disk and gigabytes once it is resized.
LONGEST = 200  # times the shorter side
# Within a file's first 16 bytes -> its format, to say why it is refused.
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
# Pillow scales these gray values to 8 bits, but not the one that tRNS declares transparent.
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

    16-bit values are scaled to 8 bits; of an animation or a multi-page file, the first frame is read.

    Args:
        file: path, or an open binary file.

    Returns:
        The image, loaded into memory.

    Raises:
        FileNotFoundError: no such file, or a broken link.
        ValueError: not a regular file, not one of the supported formats, damaged, or of a shape or depth that is
            refused; the text says which.

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
    """Open an image file, by a list of formats, and convert it; what `read_image` and `read_mask` share.

    Args:
        file: path, or an open binary file.
        convert: loads the opened image and makes one of it that is independent of the file.
        formats: Pillow's names of those that are supported here.

    Raises:
        FileNotFoundError: no such file, or a broken link.
        ValueError: as of `read_image`.
    """
    name = file
    if not isinstance(file, str | PathLike):
        name = getattr(file, "name", "image")
    else:
        check_regular_file("image", file)
    Image.init()
    try:
        # An older Pillow may lack one of the formats.
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
    except Exception as error:  # Decoders of broken files raise nearly anything: SyntaxError, struct.error, ...
        raise ValueError(f"`{name}` is not an image that can be read: {_reason(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, upright by its EXIF orientation, transparent parts white.

    Args:
        image: Pillow's; it is not changed. One that was converted before comes out the same.

    Raises:
        ValueError: as of `upright`, or values of more than 16 bits, whose range is not known.

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
        image: Pillow's; it is not changed.

    Returns:
        The copy. What is transparent in its `info` is on the scale of its pixels, unlike in Pillow's own.

    Raises:
        ValueError: opened from a file of an unsupported format, far longer than wide, or with 16-bit colors of which
            one is transparent, which Pillow cannot tell from its neighbors.
    """
    _check_shown(image)
    transparent = _transparent_color(image)
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Damaged EXIF raises nearly anything, and viewers ignore it.
        turn = None
    turned = image.copy() if turn is None else image.transpose(turn)
    if transparent is not None:
        turned.info["transparency"] = transparent
    return turned


def opaque_pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    """Tell which pixels are not wholly transparent: (height, width) bool.

    Args:
        image: as `upright` returns it.
    """
    opaque = np.ones((image.height, image.width), bool)
    if "transparency" in image.info and image.mode[0] == "I":
        opaque &= np.asarray(image) != image.info["transparency"]
    elif image.has_transparency_data:
        opaque &= np.asarray(image.convert("RGBA"))[..., 3] > 0
    return opaque


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
        known = ", ".join(FORMATS)
        raise ValueError(f"`image` must be one of {known}, got {image.format}. Convert it to PNG or JPEG.")
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
    if not isinstance(key, int):
        return key
    if image.mode == "1":
        return 255 * bool(key)
    return key * GRAY_STEPS.get(next(iter(raw), ""), 1)


def _to_8_bits(image: Image.Image, *, sixteen: bool) -> Image.Image:
    """Scale 16-bit gray values to 8 bits, with alpha where one of them is transparent."""
    values: np.ndarray[Any, Any] = np.asarray(image)
    if not sixteen:
        raise ValueError(
            f"`image` must have 8 or 16 bits per channel, got {values.dtype} values from {values.min()} to "
            f"{values.max()}, whose range is not known. Convert it to 8 bits."
        )
    gray = Image.fromarray(np.round(values / 257).astype(np.uint8))
    gray.putalpha(Image.fromarray(np.uint8(255) * opaque_pixels(image)))
    return gray


def _found_format(file: File, formats: Sequence[str]) -> str:
    """Name the unsupported format of a file by its first bytes, without decoding it; empty if they are not known."""
    if isinstance(file, str | PathLike):
        with open(file, "rb") as opened:
            start = opened.read(16)
    else:
        file.seek(0)
        start = file.read(16)
    return next((name for magic, name in SIGNATURES.items() if magic in start and name not in formats), "")


def _reason(error: Exception) -> str:
    """Say what went wrong without the file's name, which Pillow and the system repeat."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
