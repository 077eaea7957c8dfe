"""Images are read as a viewer shows them; other files raise errors."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image, ImageFile
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

import vit_interactions as vi
from tests.helpers.command_line import no_hang
from vit_interactions.figures import prepare
from vit_interactions.images.masks import read_mask
from vit_interactions.images.reading import FORMATS, image_extensions, read_image, to_rgb
from vit_interactions.loading.models import read_checkpoint
from vit_interactions.training.data.images import read_sample
from vit_interactions.utilities.files import sha256

WHITE = (255, 255, 255)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    with no_hang(60):
        yield


def png(size: tuple[int, int], depth: int, kind: int, rows: list[bytes], **chunks: bytes) -> bytes:
    """Build a PNG, including bit depths that Pillow cannot write."""

    def chunk(name: str, content: bytes) -> bytes:
        body = name.encode() + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk("IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    pixels = chunk("IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    others = b"".join(chunk(name, content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + others + pixels + chunk("IEND", b"")


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


GRAY, COLOR, PALETTE, GRAY_ALPHA, COLOR_ALPHA = 0, 2, 3, 4, 6
RED_GREEN_BLUE = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
# name -> PNG, its pixels as a viewer shows them on white, which of them are opaque and not 0 as a mask
TRANSPARENT = {
    "1 bit, 0 transparent": (
        png((2, 1), 1, GRAY, [b"\x40"], tRNS=words(0)),  # pixels 0 and 1
        [WHITE, WHITE],
        [False, True],
    ),
    "1 bit, 1 transparent": (
        png((2, 1), 1, GRAY, [b"\x40"], tRNS=words(1)),
        [(0, 0, 0), WHITE],
        [False, False],
    ),
    "2 bits gray": (
        png((4, 1), 2, GRAY, [bytes([0b00_01_10_11])], tRNS=words(1)),
        [(0, 0, 0), WHITE, (170, 170, 170), WHITE],
        [False, False, True, True],
    ),
    "4 bits gray": (
        png((2, 1), 4, GRAY, [b"\x5a"], tRNS=words(5)),
        [WHITE, (170, 170, 170)],
        [False, True],
    ),
    "8 bits gray": (
        png((2, 1), 8, GRAY, [bytes([5, 6])], tRNS=words(5)),
        [WHITE, (6, 6, 6)],
        [False, True],
    ),
    "16 bits gray": (  # 258 / 257 is 1; only 257 itself is transparent
        png((3, 1), 16, GRAY, [words(257, 258, 65535)], tRNS=words(257)),
        [WHITE, (1, 1, 1), WHITE],
        [False, True, True],
    ),
    "8 bits color": (
        png((2, 1), 8, COLOR, [bytes([1, 2, 3, 1, 2, 4])], tRNS=words(1, 2, 3)),
        [WHITE, (1, 2, 4)],
        [False, True],
    ),
    "8 bits palette": (  # 0 transparent, 1 half: 255 * 127 / 255 = 127 of white shows through
        png((3, 1), 8, PALETTE, [bytes([0, 1, 2])], PLTE=RED_GREEN_BLUE, tRNS=bytes([0, 128])),
        [WHITE, (127, 255, 127), (0, 0, 255)],
        [False, True, True],
    ),
    "2 bits palette": (
        png((3, 1), 2, PALETTE, [bytes([0b00_01_10_00])], PLTE=RED_GREEN_BLUE, tRNS=bytes([255, 0])),
        [(255, 0, 0), WHITE, (0, 0, 255)],
        [False, False, True],
    ),
    "8 bits gray and alpha": (
        png((2, 1), 8, GRAY_ALPHA, [bytes([10, 0, 10, 255])]),
        [WHITE, (10, 10, 10)],
        [False, True],
    ),
    "16 bits gray and alpha": (
        png((2, 1), 16, GRAY_ALPHA, [words(2570, 0, 2570, 65535)]),
        [WHITE, (10, 10, 10)],
        [False, True],
    ),
    "16 bits color and alpha": (
        png((2, 1), 16, COLOR_ALPHA, [words(257, 514, 771, 0, 257, 514, 771, 65535)]),
        [WHITE, (1, 2, 3)],
        [False, True],
    ),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_are_white_and_not_object(name: str, tmp_path: Path) -> None:
    content, expected, inside = TRANSPARENT[name]
    path = tmp_path / "image.png"
    path.write_bytes(content)
    for image in (read_image(path), read_image(io.BytesIO(content)), to_rgb(Image.open(path))):
        assert image.mode == "RGB"
        assert [tuple(pixel) for pixel in np.asarray(image)[0].tolist()] == expected
    if any(inside):
        assert read_mask(path, (len(inside), 1)).tolist() == [inside]
    else:
        with pytest.raises(ValueError, match="contains no object"):
            read_mask(path, (len(inside), 1))


def test_transparent_16_bit_color_raises(tmp_path: Path) -> None:
    # Pillow keeps 8 bits per channel, so other colors would become transparent too.
    (tmp_path / "deep.png").write_bytes(png((2, 1), 16, COLOR, [words(1, 2, 3, 1, 2, 4)], tRNS=words(1, 2, 3)))
    for read in (read_image, lambda path: read_mask(path, (2, 1))):
        with pytest.raises(ValueError, match=r"deep\.png.*must have 8 bits per channel .*Convert it to RGBA"):
            read(tmp_path / "deep.png")


def test_transparent_gif_and_webp(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 8, 16))
    for name in ("image.gif", "image.webp"):
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        read = read_image(tmp_path / name)
        assert (read.getpixel((3, 3)), read.getpixel((12, 3))) == ((0, 0, 255), WHITE)


# Depth and modes


def test_images_of_every_mode_become_rgb(tmp_path: Path) -> None:
    orange = Image.new("RGB", (8, 6), (240, 120, 0))
    for mode in ("RGB", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        orange.convert(mode).save(path)
        read = read_image(path)
        assert read.mode == "RGB"
        np.testing.assert_allclose(read.getpixel((3, 3)), (240, 120, 0), atol=26 if mode == "P" else 1)
    for mode, gray in (("L", 128), ("LA", 128), ("1", 255)):
        path = tmp_path / f"{mode}.png"
        Image.new("L", (8, 6), gray).convert(mode).save(path)
        assert read_image(path).getpixel((3, 3)) == (gray, gray, gray)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_not_clipped(ending: str, tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    if ending == "pgm":
        (tmp_path / "deep.pgm").write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    assert np.asarray(read_image(tmp_path / f"deep.{ending}"))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_images_raise(kind: type, tmp_path: Path) -> None:
    # 255 may be white, or almost black out of 65535.
    image = Image.fromarray(np.array([[0, 255]], dtype=kind))
    image.save(tmp_path / "deep.tiff")
    reason = (
        r"must have 8 or 16 bits per channel, got (int|float)32 values from 0(\.0)? to 255(\.0)?, .*Convert it"
    )
    with pytest.raises(ValueError, match=rf"deep\.tiff` is not an image that can be read: .*{reason}"):
        read_image(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=reason):
        to_rgb(image)


# Orientation

# EXIF orientation -> displayed position of the first row and column, from the standard.
SHOWN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_is_applied_once(orientation: int, kind: str, tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # a white corner where the first row and the first column meet
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    Image.fromarray(pixels).save(path, kind, exif=exif, quality=95)
    first_row, first_column = SHOWN[orientation]
    loaded = Image.open(path)
    loaded.load()
    transform = timm.data.create_transform((3, 16, 16))
    model = timm.create_model("test_vit")
    for image in (
        read_image(path),
        to_rgb(Image.open(path)),
        to_rgb(loaded),
        to_rgb(to_rgb(Image.open(path))),
        prepare(Image.open(path), model, transform).image,
        prepare(read_image(path), model, transform).image,
    ):
        assert image.size == ((32, 16) if first_row in ("top", "bottom") else (16, 32))
        corners = {
            ("top", "left"): (2, 2),
            ("top", "right"): (image.width - 3, 2),
            ("bottom", "left"): (2, image.height - 3),
            ("bottom", "right"): (image.width - 3, image.height - 3),
        }
        white = [name for name, place in corners.items() if image.getpixel(place)[0] > 200]  # type: ignore[index]
        assert [set(name) for name in white] == [{first_row, first_column}]
    assert loaded.size in ((32, 16), (16, 32))  # the caller's image is unchanged, or as Pillow loads it


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), (1, 2, 3))
    for content in (b"Exif\0\0XX\0*\0\0\0\x08", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"):
        image.save(tmp_path / "image.png", exif=content)
        assert np.array_equal(np.asarray(read_image(tmp_path / "image.png")), np.asarray(image))


# Files that are not images


def assert_refused(path: Path) -> str:
    """Return the reason after the file name, and check that it does not repeat the name."""
    with pytest.raises(ValueError, match="is not an image that can be read") as caught:
        read_image(path)
    start, reason = f"`{path}` is not an image that can be read: ", str(caught.value)
    assert reason.startswith(start)
    assert len(reason) > len(start)
    assert path.name not in reason.removeprefix(start)
    return reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_files_raise_with_their_path(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert_refused(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_other_files_raise_with_their_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.jpg").write_bytes(content)
    assert_refused(tmp_path / "notes.jpg")


def test_decompression_bombs_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png` is too large an image: .*10000 pixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1), (2, 401)])
def test_extreme_aspect_ratios_raise_before_decoding(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, model = io.BytesIO(), timm.create_model("test_vit")
    Image.new("RGB", size).save(line, "png")

    def decoded(_: Image.Image) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", decoded)
        for read in (lambda: read_image(line), lambda: prepare(Image.open(line), model)):
            with pytest.raises(
                ValueError, match=rf"at most 200 times .*, got {size[0]} x {size[1]} pixels\. Crop"
            ):
                read()
    with pytest.raises(ValueError, match="at most 200 times"):
        prepare(Image.new("RGB", size), model)


def test_long_images_are_read() -> None:
    line, model = io.BytesIO(), timm.create_model("test_vit")
    Image.new("RGB", (2, 400)).save(line, "png")
    assert prepare(read_image(line), model).input.shape == (3, 160, 160)


def test_memory_error_fails_one_image_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "copy", fail)
    assert assert_refused(tmp_path / "image.png").endswith("MemoryError")


DISGUISED = {
    "EPS/PostScript": EPS,
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "PDF": b"%PDF-1.7\n",
    "PSD": b"8BPS\0\x01" + bytes(40),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(20),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "FITS": b"SIMPLE  =                    T" + bytes(100),
    "a ZIP archive": b"PK\x03\x04" + bytes(40),
}


@pytest.mark.parametrize("name", DISGUISED)
def test_other_formats_raise_whatever_the_extension(name: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(DISGUISED[name])
    expected = f"`{path}` is {name}, which is not a supported image format. Convert it to PNG or JPEG."
    with pytest.raises(ValueError, match="supported image format") as caught:
        read_image(path)
    assert str(caught.value) == expected
    with path.open("rb") as file, pytest.raises(ValueError, match="supported image format") as caught:
        read_image(file)
    assert str(caught.value) == expected


def test_supported_formats_are_decoded_by_pillow_itself() -> None:
    assert not {"EPS", "WMF", "PDF", "FPX", "MIC", "IPTC", "BUFR", "GRIB", "HDF5"} & {*FORMATS}
    assert not {".eps", ".ps", ".wmf", ".emf", ".pdf"} & image_extensions()
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= image_extensions()


def test_postscript_is_never_run(fake_gs: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos" / "class" / "holiday.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(EPS)
    (tmp_path / "holiday.png").write_bytes(EPS)
    model = timm.create_model("test_vit")
    datasets = create_dataset("", root=str(tmp_path / "photos")), ImageFolder(str(tmp_path / "photos"))
    for refuse in (
        lambda: read_image(path),
        lambda: prepare(Image.open(io.BytesIO(EPS)), model),
        lambda: to_rgb(Image.open(io.BytesIO(EPS))),
        lambda: vi.explorer(model, path),
        lambda: vi.explorer(model, Image.open(io.BytesIO(EPS))),
        lambda: read_sample(datasets[0], 0),
        lambda: read_sample(datasets[1], 0),
        lambda: read_mask(tmp_path / "holiday.png", (10, 10)),
    ):
        with pytest.raises(ValueError, match=r"EPS.*Convert it to PNG"):
            refuse()
    failures = vi.compare([Image.open(io.BytesIO(EPS)), path], model, ["raw_attention"], ["deletion"]).failures()
    assert failures["reason"].str.contains("EPS").tolist() == [True, True]
    assert not fake_gs.exists()
    # Check that Pillow alone would run it.
    subprocess.run(
        [sys.executable, "-c", f"from PIL import Image; Image.open({str(path)!r}).load()"], capture_output=True
    )
    assert fake_gs.exists()


def test_pil_images_of_other_formats_raise() -> None:
    psd = io.BytesIO(b"8BPS\0\x01" + bytes(6) + b"\0\x03\0\0\0\x01\0\0\0\x01\0\x08\0\x03" + bytes(30))
    with pytest.raises(ValueError, match=r"must be one of AVIF, .*, got PSD\. Convert it to PNG or JPEG"):
        to_rgb(Image.open(psd))


# Paths that are not regular files


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Yield a path of each kind that is not a regular file, with the name of the kind."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    bound = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(tmp_path)  # socket addresses must be short
    bound.bind("socket.png")
    os.chdir(before)
    bound.close()
    (tmp_path / "link.png").symlink_to("/dev/zero")
    return {
        "a named pipe": tmp_path / "pipe.png",
        "a folder": tmp_path / "folder.png",
        "a socket": tmp_path / "socket.png",
        "a device": tmp_path / "link.png",
    }


@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a socket", "a device"])
def test_non_regular_files_raise_before_they_are_opened(
    kind: str, places: dict[str, Path], tmp_path: Path
) -> None:
    path = places[kind]
    Image.new("RGB", (20, 10)).save(tmp_path / "image.png")
    model = timm.create_model("test_vit")
    for read in (
        read_image,
        sha256,
        read_checkpoint,
        lambda path: read_mask(path, (2, 2)),
        lambda path: vi.compare(tmp_path / "image.png", model, boxes=path),
    ):
        with pytest.raises(ValueError, match=f"must be a file, got {kind} at {path}"):
            read(path)
    (tmp_path / "photos" / "class").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        path.rename(tmp_path / "photos" / "class" / name) if name == "a.png" else Image.new("RGB", (2, 2)).save(
            tmp_path / "photos" / "class" / name
        )
    for dataset in create_dataset("", root=str(tmp_path / "photos")), ImageFolder(str(tmp_path / "photos")):
        if len(dataset) == 2:  # timm and torchvision do not list folders as files
            with pytest.raises(ValueError, match=f"must be a file, got {kind}"):
                read_sample(dataset, 0)
        assert read_sample(dataset, len(dataset) - 1)[0].size == (2, 2)


def test_missing_files_and_broken_links_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`image` must be a file, got nothing at .*gone\.png"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "link.png").symlink_to("elsewhere.png")
    with pytest.raises(FileNotFoundError, match=r"got a broken link to elsewhere\.png at .*link\.png"):
        read_image(str(tmp_path / "link.png"))
