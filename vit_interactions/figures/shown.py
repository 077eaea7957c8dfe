"""A figure that notebooks show by themselves."""

from io import BytesIO

from matplotlib.figure import Figure

CSS_PIXELS = 96  # an inch


class ShownFigure(Figure):
    """A figure of no global state, which a notebook shows as a picture.

    IPython shows figures of matplotlib only once pyplot draws in the notebook (`%matplotlib inline`); this one needs
    neither, and is shown once where both are there.

    Example:
        >>> png, size = ShownFigure(figsize=(2, 1), dpi=150)._repr_png_()
        >>> png[1:4], size
        (b'PNG', {'width': 192})
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Give the picture in its own resolution, and the width in CSS pixels that it is meant for."""
        file = BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue(), {"width": round(CSS_PIXELS * self.get_figwidth())}
