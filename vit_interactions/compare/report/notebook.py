"""A comparison in a notebook: the tables of the report, the maps of a few images, and failures."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from vit_interactions.compare.report.failures import failure_line, failures_by_reason
from vit_interactions.compare.report.rendering import source, templates
from vit_interactions.compare.report.shown import show_image
from vit_interactions.compare.report.tables import columns, grouped_failures, summary_rows
from vit_interactions.compare.summary import BASELINE
from vit_interactions.figures.colors import POLICY

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison

SHOWN = 3  # images whose maps are shown, so that a notebook does not grow with the comparison


def notebook_html(comparison: "Comparison") -> str:
    """Return a comparison as HTML for a notebook, without a script.

    It has a table methods x metrics per model, the maps of the first 3 readable images, and the most common reason of
    failures. Its size does not grow with the number of images: 37 methods by 16 metrics with maps of 14 x 14 patches
    stay under 1 MB.
    """
    summary, failures, table = comparison.summary(), comparison.failures(), comparison.table()
    images = comparison.images
    read = [image for image in images if image.size is not None and image.error is None]
    models = []
    for model in comparison.models:
        heads = columns(table[table["model"] == model], comparison.directions)
        failed = failures[failures["model"] == model]
        rows = summary_rows(summary[summary["model"] == model], comparison.methods, heads, failed)
        models.append((model, heads, rows))
    reasons = failures_by_reason(grouped_failures(failures, {image.key: image.name for image in images}))
    environment = templates()
    return environment.get_template("notebook.html.jinja").render(
        summary=repr(comparison),
        models=models,
        baseline=BASELINE in comparison.methods,
        shown=[show_image(comparison, image, table) for image in read[:SHOWN]],
        images=len(images),
        notes=comparison.notes(),
        failed=failure_line(reasons[0]) if reasons else "",
        more=len(reasons) - 1,
        policy=POLICY,
        style=Markup(source(environment, "notebook.css")),
        tile_style=Markup(source(environment, "tiles.css")),
    )
