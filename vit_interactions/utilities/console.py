"""Consoles through which all commands print: text from anywhere is made harmless, and markup stays text."""

import logging
import warnings
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vit_interactions.utilities.text import printable


class SafeConsole(Console):
    """A rich console that lets no text act on the terminal: no escape sequences, control characters or bidi marks.

    All that rich draws passes through `render`, tables and progress bars included. Rich keeps its own control codes
    apart from text, so they stay. A string is one line, so that a file name cannot fake another message.

    Example:
        >>> SafeConsole().print("cannot read cat" + chr(27) + "[31m" + chr(10) + "[/red].jpg")
        cannot read cat�[31m [/red].jpg
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of rich's `Console`; brackets in file names are no markup, and ":cat:" no emoji."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Draw as rich does, with characters that cannot be printed replaced."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, lines=True))

    def render_str(self, text: str, **options: Any) -> Text:
        """Make rich's text of a string, as one line."""
        return super().render_str(one_line(text), **options)


def one_line(text: str) -> str:
    """Join the lines of a text and replace what cannot be printed.

    Example:
        >>> one_line("size mismatch:" + chr(10) + chr(9) + "head")
        'size mismatch: head'
    """
    return printable(" ".join(part for line in text.splitlines() for part in [line.strip()] if part))


def row(*cells: str) -> None:
    """Print the cells of a row to standard output, with tabs between them, for scripts.

    Example:
        >>> row("test_vit" + chr(27))
        test_vit�
    """
    print(*map(printable, cells), sep="\t")


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


def make_warnings_printable() -> None:
    """Make harmless what Python's warnings and the logs of other libraries print, which name files too."""
    warnings.formatwarning = _format_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())


_as_python_does = warnings.formatwarning


def _format_warning(*arguments: Any, **options: Any) -> str:
    return printable(_as_python_does(*arguments, **options), lines=True)


output = SafeConsole()
errors = SafeConsole(stderr=True)
