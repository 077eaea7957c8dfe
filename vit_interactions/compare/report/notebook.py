"""A comparison in a notebook: the tables of the report, the maps of a few images, and failures."""

from markupsafe import Markup

from vit_interactions.compare.report.failures import failure_line, failures_by_reason
from vit_interactions.compare.report.rendering import source, templates
from vit_interactions.compare.report.shown import show_image
from vit_interactions.compare.report.tables import columns, grouped_failures, summary_rows
from vit_interactions.compare.results import Results
from vit_interactions.compare.summary import BASELINE
from vit_interactions.figures.display import POLICY

SHOWN = 3  # images whose maps are shown, so that a notebook does not grow with the comparison


def notebook_html(results: Results) -> str:
    """Return a comparison as HTML for a notebook, without a script.

    It has a table methods x metrics per model, the maps of the first 3 readable images, and the most common reason of
    failures. Its size does not grow with the number of images: 37 methods by 16 metrics with maps of 14 x 14 patches
    stay under 1 MB.
    """
    summary, failures, table = results.summary(), results.failures(), results.table()
    images = results.images
    read = [image for image in images if image.size is not None and image.error is None]
    models = []
    for model in results.models:
        heads = columns(table[table["model"] == model], results.directions)
        failed = failures[failures["model"] == model]
        rows = summary_rows(summary[summary["model"] == model], results.methods, heads, failed)
        models.append((model, heads, rows))
    reasons = failures_by_reason(grouped_failures(failures, {image.key: image.name for image in images}))
    environment = templates()
    return environment.get_template("notebook.html.jinja").render(
        summary=repr(results),
        models=models,
        baseline=BASELINE in results.methods,
        shown=[show_image(results, image, table) for image in read[:SHOWN]],
        images=len(images),
        notes=results.notes(),
        failed=failure_line(reasons[0]) if reasons else "",
        more=len(reasons) - 1,
        policy=POLICY,
        style=Markup(source(environment, "notebook.css")),
        tile_style=Markup(source(environment, "tiles.css")),
    )
