"""A page for each of many images; one that cannot be read or explained is reported and skipped."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.explorer.data import study
from vit_interactions.explorer.explorer import ExplorerPage
from vit_interactions.explorer.page import render
from vit_interactions.figures import prepare
from vit_interactions.functional.scores import Output
from vit_interactions.images.reading import read_image
from vit_interactions.utilities.files import remove_partials
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.names import Names, numbered, safe_name
from vit_interactions.utilities.writing import WriteError

HEAD = 4096  # bytes of a page that hold what it says of itself


@dataclass
class Pages:
    """What became of each image.

    Attributes:
        done: image -> its page.
        failed: image -> the reason why it has none.
    """

    done: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def write_pages(
    model: nn.Module,
    images: Sequence[Path],
    out: Path,
    *,
    name: str,
    named: bool,
    alpha: float,
    beta: float,
    output: Output | None = None,
) -> Iterator[Pages]:
    """Write a page for each image, named after its file, into one folder.

    Args:
        model: with timm's preprocessing, on its device.
        images: image files.
        out: folder to write to; made if missing.
        name: what the pages call the model.
        named: whether its classes are those of timm's own weights; see `predictions.class_name`.
        alpha: where its slider begins.
        beta: likewise.
        output: as of `study`.

    Yields:
        What became of the images so far, after each. A page of another image of the same name is kept; the
        new one gets a number.

    Raises:
        BlockingIOError: another run is writing to `out`.
        WriteError: the disk is full, or `out` cannot be written to.
        UnsupportedModelError: the model cannot be explained.
    """
    pages = Pages()
    with locked(out):
        remove_partials(out, "*.html")
        names = Names(path.name for path in out.iterdir())
        for path in images:
            source = image_id(path)
            try:
                file = names.choose(numbered(safe_name(path.stem), ".html"), partial(_is_own, out, source))
                found = study(model, prepare(read_image(path), model), named=named, output=output)
                html = render(found, title=path.name, model=name, alpha=alpha, beta=beta, source=source)
                pages.done[str(path)] = ExplorerPage(html).save(out / file)
                names.use(file)
            except (UnsupportedModelError, WriteError):
                raise
            # An image that cannot be read or explained is one image less, not the end.
            except (OSError, ValueError, IndexError, RuntimeError, MemoryError) as error:
                pages.failed[str(path)] = str(error) or type(error).__name__
            yield pages


def image_id(path: Path) -> str:
    """Return the SHA-256 of where an image is: it tells apart images of one name, and does not tell the folder.

    Example:
        >>> image_id(Path("a/cat.jpg")) == image_id(Path("b/cat.jpg"))
        False
    """
    return hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogatepass")).hexdigest()


def _is_own(out: Path, source: str, name: str) -> bool:
    """Return whether a file in `out` is the page of this image.

    Raises:
        ValueError: it is no page of the explorer.
    """
    head = b""
    if (out / name).is_file():
        with (out / name).open("rb") as file:
            head = file.read(HEAD)
    if b'<meta name="generator" content="vit_interactions ' not in head:
        raise ValueError(f"{out / name} exists and is no page of the explorer; move it, or choose another `out`.")
    return f'<meta name="image" content="{source}">'.encode() in head
