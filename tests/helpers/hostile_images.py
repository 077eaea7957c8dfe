"""Hostile images, masks and file names, each with the expected result of a command."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

SCRIPT = "<img src=x onerror=alert(1)>"
EVIL = "\x1b[31m\x1b]0;owned\x07\x9b2J\u202etxt\u2066[/red][bold]:cat:"


class Hostile(NamedTuple):
    """One hostile file.

    Attributes:
        name: says what it is, in a table.
        write: makes the file.
        readable: whether a command must use it; None if either is right.
    """

    name: str
    write: Callable[[Path], object]
    readable: bool | None = False


def noise(rng: np.random.Generator, height: int = 40, width: int = 48, channels: int = 3) -> Image.Image:
    """Make an image of noise."""
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def wide_png(width: int, height: int, bits: int = 1, color: int = 0) -> bytes:
    """Encode a PNG of any size in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), b"\0" * (1 + -(-width * bits // 8))
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def socket_at(path: Path) -> None:
    """Make a socket, by a relative name since absolute ones may be too long."""
    import socket

    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def bytes_of(content: bytes) -> Callable[[Path], object]:
    """Return what writes these bytes."""
    return lambda path: path.write_bytes(content)


def images(rng: np.random.Generator, count: int) -> list[Hostile]:
    """Return hostile images: a fixed list, then `count` random damages of good ones."""
    png, jpeg = encoded(noise(rng), "png"), encoded(noise(rng), "jpeg")
    gray = Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8))
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", EVIL + SCRIPT)
    bomb = PngImagePlugin.PngInfo()
    bomb.add(b"zTXt", b"k\0\0" + zlib.compress(b"0" * 200_000_000 if count > 50 else b"0" * 70_000_000))
    fixed = [
        Hostile("empty", bytes_of(b"")),
        Hostile("text", bytes_of(b"no image")),
        Hostile("EPS", bytes_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(marker) (w) file\n")),
        Hostile(
            "EPS with a DOS header", bytes_of(b"\xc5\xd0\xd3\xc6" + struct.pack("<7I", 32, 90, 0, 0, 0, 0, 0))
        ),
        Hostile("PDF", bytes_of(b"%PDF-1.7\n%%EOF\n")),
        Hostile("PSD", bytes_of(b"8BPS\0\1" + bytes(40))),
        Hostile("WMF", bytes_of(b"\xd7\xcd\xc6\x9a" + bytes(40))),
        Hostile("SVG", bytes_of(b"<svg onload='alert(1)'/>")),
        Hostile("HTML", bytes_of(SCRIPT.encode())),
        Hostile("FITS", bytes_of(b"SIMPLE  =                    T".ljust(2880))),
        Hostile("ICNS", bytes_of(b"icns" + struct.pack(">I", 8))),
        Hostile("SPIDER, text of floats", bytes_of(np.ones(256, np.float32).tobytes())),
        Hostile("1 x 1,000,000", bytes_of(wide_png(1, 1_000_000))),
        Hostile("1,000,000 x 1", bytes_of(wide_png(1_000_000, 1))),
        Hostile("30,000 x 30,000", bytes_of(wide_png(30_000, 30_000)[:400])),
        Hostile("zTXt bomb", bytes_of(encoded(noise(rng), "png", pnginfo=bomb))),
        Hostile("32-bit TIFF", bytes_of(encoded(gray.convert("I"), "tiff"))),
        Hostile("float TIFF", bytes_of(encoded(gray.convert("F"), "tiff"))),
        Hostile("truncated PNG", bytes_of(png[: len(png) // 2])),
        Hostile("truncated JPEG", bytes_of(jpeg[: len(jpeg) // 2])),
        Hostile("TIFF, directory loop", bytes_of(b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), None),
        Hostile("named pipe", os.mkfifo),
        Hostile("socket", socket_at),
        Hostile("device", lambda path: path.symlink_to("/dev/zero")),
        Hostile("broken link", lambda path: path.symlink_to(path.with_name("nowhere"))),
        Hostile("link to itself", lambda path: path.symlink_to(path.name)),
        Hostile("text chunks", bytes_of(encoded(noise(rng), "png", pnginfo=text)), True),
        Hostile("gray with tRNS", bytes_of(encoded(gray, "png", transparency=3)), True),
        Hostile("palette with tRNS", bytes_of(encoded(gray.convert("P"), "png", transparency=b"\0\1")), True),
        Hostile("16-bit gray", bytes_of(encoded(gray.convert("I;16"), "png")), True),
        Hostile("CMYK", bytes_of(encoded(noise(rng).convert("CMYK"), "jpeg")), True),
        Hostile(
            "damaged EXIF", bytes_of(encoded(noise(rng), "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), True
        ),
        Hostile("1 x 1", bytes_of(encoded(noise(rng, 1, 1), "png")), True),
    ]
    return fixed + [damaged(rng, png, jpeg) for _ in range(count)]


def damaged(rng: np.random.Generator, *originals: bytes) -> Hostile:
    """Damage one of several files at random: cut it, change bytes, repeat or drop a part."""
    content = bytearray(originals[rng.integers(len(originals))])
    start, stop = sorted(int(place) for place in rng.integers(0, len(content), 2))
    kind = ["cut", "bytes", "repeated", "dropped", "zeros"][rng.integers(5)]
    if kind == "cut":
        del content[start:]
    elif kind == "bytes":
        for place in rng.integers(0, len(content), rng.integers(1, 20)):
            content[place] = rng.integers(256)
    elif kind == "repeated":
        content[start:start] = content[start:stop]
    elif kind == "dropped":
        del content[start:stop]
    else:
        content[start:stop] = bytes(stop - start)
    return Hostile(f"{kind} at random", bytes_of(bytes(content)), None)


def names(rng: np.random.Generator, count: int) -> list[bytes]:
    """Return hostile names of image files, without the extension: a fixed list, then random ones."""
    fixed = [
        *(
            "..",
            "...",
            " ",
            "-rf",
            "--out",
            "con",
            "nul.txt",
            "~",
            "%s%n%00",
            "{{7*7}}",
            "a\\..\\b",
            "..%2f..%2fx",
        ),
        *(
            SCRIPT,
            '"onload="alert(1)',
            "'",
            "`touch marker`",
            "$(touch marker)",
            "; touch marker;",
            "*",
            "?[a]",
            "#",
        ),
        *("\x1b[31mred", "\x1b]0;owned\x07", "\x9b2J", "\u202egnp", "\u2066x", "[/red]", "[bold]", ":cat:"),
        *("a\nfailed: b", "a\rb", "a\tb", "caf\u00e9", "cafe\u0301", "CAF\u00c9", "manifest", ".partial", ".lock"),
        *("x" * 246, "x" * 245 + "y", "\u732b" * 82, "comparison.json", "\U000e0041", "\ufeff", "\u200b"),
    ]
    letters = list("ab .-[]\\'\"<>&;$`%{}\x1b\x07\u202e\u0301\u732b\n\r\t:|*?")
    drawn = ["".join(rng.choice(letters, rng.integers(1, 20))) for _ in range(count)]
    return [b"caf\xe9", b"\xff\xfe", *(name.encode() for name in fixed + drawn)]


def masks(rng: np.random.Generator, count: int) -> list[Hostile]:
    """Return hostile masks of an image of 48 x 40 pixels."""
    good = Image.fromarray((rng.random((40, 48)) < 0.5).astype(np.uint8) * 255)
    png = encoded(good, "png")
    fixed = [
        Hostile("empty", bytes_of(b"")),
        Hostile("JPEG", bytes_of(encoded(good, "jpeg"))),
        Hostile("EPS", bytes_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(marker) (w) file\n")),
        Hostile("another size", bytes_of(encoded(good.resize((9, 9)), "png"))),
        Hostile("1 x 1,000,000", bytes_of(wide_png(1, 1_000_000))),
        Hostile("truncated", bytes_of(png[: len(png) // 2])),
        Hostile("no object", bytes_of(encoded(Image.new("L", (48, 40)), "png")), None),
        Hostile("named pipe", os.mkfifo),
        Hostile("device", lambda path: path.symlink_to("/dev/zero")),
        Hostile("broken link", lambda path: path.symlink_to("nowhere"), None),
        Hostile("folder", Path.mkdir, None),
        Hostile("1 bit", bytes_of(encoded(good.convert("1"), "png")), True),
    ]
    return fixed + [damaged(rng, png) for _ in range(count)]
