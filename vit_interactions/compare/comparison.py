"""A comparison that shows itself: in a notebook, as a report and as figures."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from vit_interactions.compare.results import Results
from vit_interactions.compare.stability import rank_stability

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Comparison(Results):
    """The results of a comparison, with a report and figures.

    Example:
        >>> import vit_interactions as vi
        >>> from PIL import Image
        >>> noise = Image.effect_noise((64, 64), 50)
        >>> comparison = vi.compare([noise], "test_vit", ["raw_attention", "random_map"], ["deletion"])
        ... # doctest: +SKIP
        >>> comparison.summary()  # doctest: +SKIP
    """

    # The report loads matplotlib and jinja, which takes seconds, so it is imported where it is needed.

    def rank_stability(self) -> "pd.DataFrame":
        """Return how often the best method changes with the replacement of removed patches; see `stability`."""
        return rank_stability(self.table(), self.settings["metrics"])

    def report(self, path: str | PathLike[str]) -> Path:
        """Write a report as one HTML file; see `report.page.report`."""
        from vit_interactions.compare.report.page import report

        return report(self, path)

    def grid_figure(
        self, model: str, keys: Sequence[str] | None = None, methods: Sequence[str] | None = None
    ) -> "Figure":
        """Draw images x methods; see `report.figures.grid_figure`."""
        from vit_interactions.compare.report.figures import grid_figure

        return grid_figure(self, model, keys, methods)

    def curves_figure(self, model: str, metric: str) -> "Figure":
        """Draw the mean curves of a metric; see `report.figures.curves_figure`."""
        from vit_interactions.compare.report.figures import curves_figure

        return curves_figure(self, model, metric)

    def ranking_figure(self, model: str, metric: str) -> "Figure":
        """Draw the methods' means of a metric; see `report.figures.ranking_figure`."""
        from vit_interactions.compare.report.figures import ranking_figure

        return ranking_figure(self, model, metric)

    def agreement_figure(self, model: str) -> "Figure":
        """Draw how well methods agree; see `report.figures.agreement_figure`."""
        from vit_interactions.compare.report.figures import agreement_figure

        return agreement_figure(self, model)

    def _repr_html_(self) -> str:
        """Return tables, maps of a few images and failures as HTML for a notebook."""
        from vit_interactions.compare.report.notebook import notebook_html

        return notebook_html(self)
