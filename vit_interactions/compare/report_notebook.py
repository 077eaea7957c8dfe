"""A comparison as a notebook shows it: the tables of the report, the maps of a few photographs, and what failed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from vit_interactions.compare.colors import POLICY
from vit_interactions.compare.plan import CONTROL
from vit_interactions.compare.report_shots import make_shot
from vit_interactions.compare.report_tables import Failure, columns, grouped_failures, summary_rows
from vit_interactions.compare.report_templates import source, templates

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison

SHOWN = 3  # photographs whose maps are shown, so that a notebook does not grow with the comparison
LONGEST = 160  # characters of a reason or a name


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
    reasons = _by_reason(grouped_failures(failures, {each["key"]: each["name"] for each in photographs}))
    environment = templates()
    return environment.get_template("notebook.html.jinja").render(
        said=repr(comparison),
        models=models,
        control=CONTROL in comparison.methods,
        shots=[make_shot(comparison, photograph, table) for photograph in read[:SHOWN]],
        photographs=len(photographs),
        notes=comparison.notes(),
        failed=_failure_line(reasons[0]) if reasons else "",
        more=len(reasons) - 1,
        policy=POLICY,
        style=Markup(source(environment, "notebook.css")),
        tiles=Markup(source(environment, "tiles.css")),
    )


def _by_reason(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Put together the metrics that failed for one reason, those of most metrics first."""
    found: dict[tuple[object, ...], list[Failure]] = {}
    for each in failures:
        found.setdefault((each.model, each.reason, each.methods, each.photographs), []).append(each)
    return sorted(found.values(), key=len, reverse=True)


def _failure_line(failures: Sequence[Failure]) -> str:
    """Word in one line what failed for one reason.

    Example:
        >>> _failure_line([Failure("vit", "iou", "no box", ("gmar", "attn_lrp"), ("a.jpg",))])
        'iou of 2 methods on a.jpg: no box'
    """
    first = failures[0]
    metrics = _some([each.metric.replace("_", " ") for each in failures if each.metric], "metrics")
    methods = _some([method.replace("_", " ") for method in first.methods], "methods")
    what = " of ".join(part for part in (metrics, methods) if part)
    where = _some(first.photographs, "photographs")
    return f"{what} on {where}: {_short(first.reason)}" if what else f"{where}: {_short(first.reason)}"


def _some(names: Sequence[str], things: str) -> str:
    """Name the one, or say how many there are."""
    return f"{len(names)} {things}" if len(names) > 1 else "".join(map(_short, names))


def _short(text: str) -> str:
    """Cut a text to one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
