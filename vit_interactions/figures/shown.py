"""A matplotlib figure that displays itself in notebooks."""

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

CSS_PIXELS = 96  # per inch


class ShownFigure(Figure):
    """A figure independent of pyplot that notebooks show as a PNG.

    IPython shows matplotlib figures only after `%matplotlib inline`. This one does not need it, and is still shown only
    once with it.

    Example:
        >>> png, size = ShownFigure(figsize=(2, 1), dpi=150)._repr_png_()
        >>> png[1:4], size
        (b'PNG', {'width': 192})
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return a PNG in the figure's resolution and its display width in CSS pixels."""
        file = BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue(), {"width": round(CSS_PIXELS * self.get_figwidth())}


def rendered(figure: Figure, dpi: int) -> Image.Image:
    """Draw a figure as an RGB image, with `dpi` pixels per inch.

    Example:
        >>> rendered(ShownFigure(figsize=(2, 1)), 50).size
        (100, 50)
    """
    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure)  # untyped
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
