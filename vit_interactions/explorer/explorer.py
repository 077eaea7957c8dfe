"""Create the explorer page of one image, to save or to show in a notebook."""

from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path

from PIL import Image
from torch import nn

from vit_interactions.functional.scores import Output, check_output
from vit_interactions.utilities.checks import check_fraction
from vit_interactions.utilities.files import write_errors, write_text

NOTEBOOK_HEIGHT = 900  # pixels


@dataclass(frozen=True, eq=False)
class ExplorerPage:
    """A self-contained HTML page that displays itself in notebooks.

    Attributes:
        html: the page; it loads no other files.

    Example:
        >>> page = ExplorerPage("<!DOCTYPE html>")
        >>> page
        ExplorerPage of 0.0 MB
        >>> page._repr_html_()[:31]
        '<iframe sandbox="allow-scripts"'
    """

    html: str

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the page to a file atomically and return its path."""
        file = Path(path)
        with write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, self.html)
        return file

    def __repr__(self) -> str:
        return f"ExplorerPage of {len(self.html.encode('utf-8', 'replace')) / 1e6:.1f} MB"

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts" srcdoc="{escape(self.html)}" title="patch explorer" '
            f'style="width: 100%; height: {NOTEBOOK_HEIGHT}px; border: 0"></iframe>'
        )


def explorer(
    model: nn.Module | str,
    image: str | PathLike[str] | Image.Image,
    *,
    alpha: float = 0.10,
    beta: float = 0.20,
    coverage: float = 1.0,
    title: str | None = None,
    output: Output | None = None,
    exclude_sinks: bool = False,
) -> ExplorerPage:
    """Create an interactive page that shows how the patches of an image interact.

    Point at a patch to see its row of U, its window and responsive field, its tendency, its attention in every layer
    and head, and the similarity of its features to those of all others. Sliders change α and β. The page is one
    self-contained file, about 2 MB for a ViT-Ti/16 at 224 pixels. For large grids, the page shows the attention
    averaged over the heads of each layer, and the features of the last layer only.

    Args:
        model: a timm model, which is not modified, or a name as in `vit-interactions --model`.
        image: image file or PIL image.
        alpha: initial α, the fraction of patch pairs that count as relevant, in [0, 1].
        beta: initial β, the fraction of patches dropped as indiscriminative, in [0, 1].
        coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1]; 1 is the paper's
            bounding box. See `adaptive_windows`.
        title: page title; None for the file name.
        output: kind of model output, as in `compare`.
        exclude_sinks: leave attention sinks out of U, windows and fields; see `attention_sinks`. They are marked in any
            case.

    Returns:
        The page; call `save` to write it.

    Raises:
        UnsupportedModelError: the model has no global attention among patches.
        ValueError: `alpha`, `beta` or `coverage` is outside [0, 1], the file is not an image, or the model is unknown.
        FileNotFoundError: the file does not exist.
        TypeError: `image` is neither a path nor a PIL image.

    Example:
        >>> import timm
        >>> from PIL import Image
        >>> page = explorer(timm.create_model("test_vit"), Image.new("RGB", (200, 160), "teal"), alpha=0.05)
        >>> page.html[:15], len(page.html) < 1_500_000
        ('<!DOCTYPE html>', True)
    """
    # Imported here so that `import vit_interactions` does not load the drawing libraries.
    from vit_interactions.explorer.data import page_data
    from vit_interactions.explorer.render import render
    from vit_interactions.figures import prepare
    from vit_interactions.images.reading import read_image
    from vit_interactions.loading.models import load_model

    check_fraction("alpha", alpha)
    check_fraction("beta", beta)
    check_fraction("coverage", coverage)
    check_output("output", output)
    if not isinstance(image, str | PathLike | Image.Image):
        raise TypeError(f"`image` must be a path or a PIL image, got {type(image).__name__}.")
    if isinstance(image, Image.Image):
        opened, file = image, "image"
    else:
        opened, file = read_image(image), Path(image).name
    vit, name = (load_model(model), model) if isinstance(model, str) else (model, name_of(model))
    prepared, named = prepare(opened, vit), isinstance(model, str)
    found = page_data(vit, prepared, named=named, output=output, exclude_sinks=exclude_sinks)
    return ExplorerPage(render(found, title=title or file, model=name, alpha=alpha, beta=beta, coverage=coverage))


def name_of(model: nn.Module) -> str:
    """Return timm's architecture name of a model, or the name of its class.

    Example:
        >>> name_of(nn.Linear(1, 1))
        'Linear'
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)
