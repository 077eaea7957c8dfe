"""The means of a comparison for a console: methods x metrics, one metric block after the other if it is narrow."""

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from vit_interactions.compare.report.tables import MISSING, Cell, Column, MethodRow, columns, summary_rows
from vit_interactions.compare.results import Results
from vit_interactions.utilities.console import one_line

UNITS = {"seconds": "s", "forwards": "passes", "peak_memory": "MB"}
METHOD, METRIC = 30, 10  # characters per line of a name that can be divided


def matrices(results: Results, console: Console) -> list[Table]:
    """Make the tables methods x metrics of each model that has values.

    Names are complete: metrics that do not fit beside the methods form further tables, and longer names are wrapped.

    Args:
        results: finished or not.
        console: to print on; its width decides how many metrics are side by side.
    """
    summary, table, failures = results.summary(), results.table(), results.failures()
    found = []
    for model in results.models:
        heads = columns(table[table["model"] == model], results.directions)
        rows = summary_rows(
            summary[summary["model"] == model], results.methods, heads, failures[failures["model"] == model]
        )
        parts = blocks(rows, heads, console)
        found += [matrix(rows, part, Text(one_line(model)) if part is parts[0] else None, heads) for part in parts]
    return found


def blocks(rows: Sequence[MethodRow], heads: Sequence[Column], console: Console) -> list[list[Column]]:
    """Divide metrics into blocks whose tables fit into the width of a console; at least one metric per block."""
    parts: list[list[Column]] = []
    for head in heads:
        wider = [*parts[-1], head] if parts else []
        if wider and needed_width(matrix(rows, wider, None, heads), console) <= console.width:
            parts[-1] = wider
        else:
            parts.append([head])
    return parts


def needed_width(table: Table, console: Console) -> int:
    """Return the width at which no name and no number of a table is wrapped."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def matrix(
    rows: Sequence[MethodRow], part: Sequence[Column], title: Text | None, heads: Sequence[Column]
) -> Table:
    """Make the table of some metrics.

    Args:
        rows: a method each, with cells for all metrics.
        part: the metrics of this table.
        title: above the table.
        heads: all metrics, in the order of the cells.
    """
    table = Table(box=SIMPLE_HEAD, padding=0, title=title, title_justify="left")
    table.add_column("method", overflow="fold")
    for head in part:
        lines = [*wrapped(head.name, METRIC, "_"), UNITS.get(head.name, hint(head))]
        table.add_column(Text("\n".join(lines)), justify="right", overflow="fold")
    places = [heads.index(head) for head in part]
    for row in rows:
        name = "\n".join(wrapped(f"{row.method} (baseline)" if row.baseline else row.method, METHOD, ":,"))
        values = (shown(row.cells[place]) for place in places)
        table.add_row(Text(name), *values, style="italic" if row.baseline else "")
    return table


def wrapped(name: str, width: int, after: str) -> list[str]:
    """Divide a name that is longer than a line behind some of its characters; pieces without them stay whole.

    Example:
        >>> wrapped("token_insertion", 10, "_"), wrapped("iou", 10, "_")
        (['token_', 'insertion'], ['iou'])
        >>> wrapped("attention_rollout:fusion=max,discard=0.9", 30, ":,")
        ['attention_rollout:fusion=max,', 'discard=0.9']
    """
    lines = [""]
    for piece in re.findall(f"[^{after}]*[{after}]|[^{after}]+", one_line(name)):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def hint(head: Column) -> str:
    """Return which values are better, in short.

    Example:
        >>> hint(Column("deletion", "deletion", "lower"))
        'lower'
    """
    return "" if head.direction == "none" else head.direction


def shown(cell: Cell) -> Text:
    """Return a mean in ASCII: bold if it is the best, with * if it is not over all images.

    Example:
        >>> shown(Cell("−0.123", -0.123, fewer="2 of 3 images")).plain, shown(Cell()).plain
        ('-0.123*', '-')
    """
    text = cell.text.replace(MISSING, "-").replace("−", "-")
    return Text(f"{text}*" if cell.fewer else text, "bold" if cell.best else "")
