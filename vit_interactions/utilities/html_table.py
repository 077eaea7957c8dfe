"""A small HTML table for notebooks, in the notebook's own colors."""

from collections.abc import Sequence
from html import escape


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """Format a table of strings as escaped HTML.

    Args:
        heads: column headings.
        rows: cells of each row.
        note: paragraph below the table.

    Example:
        >>> html_table(["α"], [["<1"]], "a note")
        '<table><thead><tr><th>α</th></tr></thead><tbody><tr><td>&lt;1</td></tr></tbody></table><p>a note</p>'
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"{table}<p>{escape(note)}</p>" if note else table
