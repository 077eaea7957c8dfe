"""Write one explorer page per image; images that fail are reported and skipped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import nn

from vit_interactions.explorer.data import page_data
from vit_interactions.explorer.explorer import ExplorerPage
from vit_interactions.explorer.page_files import image_id, image_of
from vit_interactions.explorer.render import render
from vit_interactions.figures import prepare
from vit_interactions.functional.scores import Output
from vit_interactions.images.failures import recorded_failure
from vit_interactions.images.reading import read_image
from vit_interactions.utilities.files import remove_partials
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.names import Names, numbered_names, safe_name


@dataclass
class Pages:
    """The images that have a page and those that failed.

    Attributes:
        done: image -> its page.
        failed: image -> reason.
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
    coverage: float = 1.0,
    output: Output | None = None,
    exclude_sinks: bool = False,
) -> Iterator[Pages]:
    """Write one page per image, named after its file, to a folder.

    Args:
        model: a timm model with its preprocessing, on its device.
        images: image files.
        out: output folder; created if missing.
        name: model name shown on the pages.
        named: whether the class names are those of the model's pretrained weights, as in `class_name`.
        alpha: initial α.
        beta: initial β.
        coverage: fraction of a patch's relevant patches that its window contains at least; see `adaptive_windows`.
        output: kind of model output, as in `page_data`.
        exclude_sinks: leave out attention sinks, as in `page_data`.

    Yields:
        The state after each image. If another image of the same name has a page, it is kept, and the new page gets a
        number.

    Raises:
        BlockingIOError: another run is writing to `out`.
        WriteError: the disk is full, or `out` is not writable.
        UnsupportedModelError: the model is not supported.
    """
    pages = Pages()
    with locked(out):
        remove_partials(out, "*.html")
        names = Names(path.name for path in out.iterdir())
        for path in images:
            source = image_id(path)
            with recorded_failure(pages.failed, path):
                file = names.choose(numbered_names(safe_name(path.stem), ".html"), partial(_is_own, out, source))
                prepared = prepare(read_image(path), model)
                found = page_data(model, prepared, named=named, output=output, exclude_sinks=exclude_sinks)
                html = render(
                    found, title=path.name, model=name, alpha=alpha, beta=beta, coverage=coverage, source=source
                )
                pages.done[str(path)] = ExplorerPage(html).save(out / file)
                names.use(file)
            yield pages


def _is_own(out: Path, source: str, name: str) -> bool:
    """Return whether a file in `out` is the page of this image.

    Raises:
        ValueError: it is not an explorer page.
    """
    found = image_of(out / name)
    if found is None:
        raise ValueError(f"{out / name} exists and is not an explorer page. Move it, or choose another `out`.")
    return found == source
