"""A page for each of many photographs; one that cannot be read or explained is reported and skipped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.figures import prepare
from vit_interactions.functional.scores import Output
from vit_interactions.images.reading import read_image
from vit_interactions.patch_explorer.explorer import ExplorerPage
from vit_interactions.patch_explorer.page import render
from vit_interactions.patch_explorer.study import study
from vit_interactions.photographs import folder_names

NAME_LENGTH = 120  # characters of a page's name that come from the picture's


@dataclass
class Pages:
    """What became of each photograph.

    Attributes:
        done: photograph -> its page.
        failed: photograph -> the reason why it has none.
    """

    done: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def write_pages(
    model: nn.Module,
    photographs: Sequence[Path],
    out: Path,
    *,
    name: str,
    named: bool,
    alpha: float,
    beta: float,
    output: Output | None = None,
) -> Iterator[Pages]:
    """Write a page for each photograph, named after its file, into one folder.

    Args:
        model: with timm's preprocessing, on its device.
        photographs: picture files.
        out: folder to write to; made if missing.
        name: what the pages call the model.
        named: whether its classes are those of timm's own weights; see `predictions.class_name`.
        alpha: where its slider begins.
        beta: likewise.
        output: as of `study`.

    Yields:
        What became of the photographs so far, after each.
    """
    pages = Pages()
    for path, stem in zip(photographs, folder_names(photographs), strict=True):
        try:
            found = study(model, prepare(read_image(path), model), named=named, output=output)
            page = ExplorerPage(render(found, title=path.name, model=name, alpha=alpha, beta=beta))
            pages.done[str(path)] = page.save(out / f"{stem[:NAME_LENGTH]}.html")
        except UnsupportedModelError:
            raise
        # A picture that cannot be read or explained is one picture less, not the end.
        except (OSError, ValueError, IndexError, RuntimeError, MemoryError) as error:
            pages.failed[str(path)] = str(error) or type(error).__name__
        yield pages
