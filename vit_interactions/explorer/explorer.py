"""`vi.explorer`: the page of one image, in a notebook or as a file."""

from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path

from PIL import Image
from torch import nn

from vit_interactions.functional.scores import Output, check_output
from vit_interactions.utilities.checks import check_fraction
from vit_interactions.utilities.files import write_text
from vit_interactions.utilities.writing import writing

NOTEBOOK_HEIGHT = 900  # pixels


@dataclass(frozen=True, eq=False)
class ExplorerPage:
    """A page of its own, which shows itself in a notebook.

    Attributes:
        html: the whole page; it fetches nothing.

    Example:
        >>> page = ExplorerPage("<!DOCTYPE html>")
        >>> page
        ExplorerPage of 0.0 MB
        >>> page._repr_html_()[:31]
        '<iframe sandbox="allow-scripts"'
    """

    html: str

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the page to a file, whole or not at all, and return the file's path."""
        file = Path(path)
        with writing(file):
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
    title: str | None = None,
    output: Output | None = None,
) -> ExplorerPage:
    """Make a page to explore how the patches of an image interact.

    Pointing at a patch shows its row of U, its window and responsive field, its tendency and its attention in every
    layer and head; sliders for α and β act at once, by the definitions of `responsive_field`. One file with
    everything in it: about 2 MB for a ViT-Ti/16 at 224 pixels. The attention of grids too large for every head is
    the mean of each layer's heads, and the page says so.

    Args:
        model: a timm model with its preprocessing, borrowed; or a name that `vit-interactions --model` takes.
        image: an image file, or an image of Pillow.
        alpha: where its slider begins: the share of all patch pairs that count as relevant, in [0, 1].
        beta: likewise: the share of the patches that are dropped as indiscriminative, in [0, 1].
        title: over the page; None: the file's name.
        output: what the model's output is, as in `compare`.

    Returns:
        The page; `save` writes it, a notebook shows it.

    Raises:
        UnsupportedModelError: a model without attention from every patch to every patch.
        ValueError: `alpha` or `beta` outside [0, 1], a file that is not an image, an unknown model.
        FileNotFoundError: no such file.

    Example:
        >>> import timm
        >>> from PIL import Image
        >>> page = explorer(timm.create_model("test_vit"), Image.new("RGB", (200, 160), "teal"), alpha=0.05)
        >>> page.html[:15], len(page.html) < 1_500_000
        ('<!DOCTYPE html>', True)
    """
    # What draws is loaded only where something is drawn.
    from vit_interactions.explorer.data import study
    from vit_interactions.explorer.page import render
    from vit_interactions.figures import prepare
    from vit_interactions.images.reading import read_image
    from vit_interactions.loading.models import load_model

    check_fraction("alpha", alpha)
    check_fraction("beta", beta)
    check_output("output", output)
    if isinstance(image, Image.Image):
        opened, file = image, "image"
    else:
        opened, file = read_image(image), Path(image).name
    vit, name = (load_model(model), model) if isinstance(model, str) else (model, name_of(model))
    found = study(vit, prepare(opened, vit), named=isinstance(model, str), output=output)
    return ExplorerPage(render(found, title=title or file, model=name, alpha=alpha, beta=beta))


def name_of(model: nn.Module) -> str:
    """Name a model by timm's name for its architecture, or its class.

    Example:
        >>> name_of(nn.Linear(1, 1))
        'Linear'
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)
