"""A comparison as a notebook shows it: the tables of the report, the maps of a few photographs, and what failed."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from vit_interactions.compare.plan import CONTROL
from vit_interactions.compare.report.failures import failure_line, failures_by_reason
from vit_interactions.compare.report.rendering import source, templates
from vit_interactions.compare.report.shots import make_shot
from vit_interactions.compare.report.tables import columns, grouped_failures, summary_rows
from vit_interactions.figures.colors import POLICY

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison

SHOWN = 3  # photographs whose maps are shown, so that a notebook does not grow with the comparison


def notebook_html(comparison: "Comparison") -> str:
    """Give the HTML that stands for a comparison in a notebook, without a script.

    A table methods x metrics for each model, the maps of the first 3 photographs that could be read, and the first
    reason of failures. Its size so depends on the numbers of models, methods and metrics only, not on that of
    photographs: 37 methods by 16 metrics with maps of 14 x 14 patches stay under 1 MB.
    """
    summary, failures, table = comparison.summary(), comparison.failures(), comparison.table()
    photographs = comparison.photographs
    read = [photograph for photograph in photographs if photograph.get("size") and not photograph.get("error")]
    models = []
    for model in comparison.models:
        heads = columns(table[table["model"] == model], comparison.directions)
        failed = failures[failures["model"] == model]
        rows = summary_rows(summary[summary["model"] == model], comparison.methods, heads, failed)
        models.append((model, heads, rows))
    reasons = failures_by_reason(grouped_failures(failures, {each["key"]: each["name"] for each in photographs}))
    environment = templates()
    return environment.get_template("notebook.html.jinja").render(
        said=repr(comparison),
        models=models,
        control=CONTROL in comparison.methods,
        shots=[make_shot(comparison, photograph, table) for photograph in read[:SHOWN]],
        photographs=len(photographs),
        notes=comparison.notes(),
        failed=failure_line(reasons[0]) if reasons else "",
        more=len(reasons) - 1,
        policy=POLICY,
        style=Markup(source(environment, "notebook.css")),
        tiles=Markup(source(environment, "tiles.css")),
    )
