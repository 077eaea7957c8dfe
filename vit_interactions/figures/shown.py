"""A matplotlib figure that displays itself in notebooks."""

from io import BytesIO

from matplotlib.figure import Figure

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
