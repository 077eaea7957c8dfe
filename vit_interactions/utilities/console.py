"""The consoles of all commands; they print text from any source safely and never interpret it as markup."""

import logging
import warnings
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vit_interactions.utilities.text import printable


class SafeConsole(Console):
    """A rich console that replaces escape sequences, control characters and bidi marks in all text.

    Everything that rich draws passes through `render`, including tables and progress bars. Rich's own control codes are
    separate from text, so they are kept. A string is printed as one line, so that a file name cannot imitate a message.

    Example:
        >>> SafeConsole().print("cannot read cat" + chr(27) + "[31m" + chr(10) + "[/red].jpg")
        cannot read cat�[31m [/red].jpg
    """

    def __init__(self, **options: Any) -> None:
        """Pass on options to rich's `Console`; "[red]" and ":cat:" in file names stay as they are."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, and replace unprintable characters, and those that the stream cannot encode."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=self._encodable(segment.text))

    def _encodable(self, text: str) -> str:
        text = printable(text, lines=True)
        if getattr(self.file, "errors", "strict") != "strict":  # standard error escapes them
            return text
        return text.encode(self.encoding, "replace").decode(self.encoding)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich's text, as one line."""
        return super().render_str(one_line(text), **options)


def one_line(text: str) -> str:
    """Join the lines of a text and replace unprintable characters.

    Example:
        >>> one_line("size mismatch:" + chr(10) + chr(9) + "head")
        'size mismatch: head'
    """
    return printable(" ".join(part for line in text.splitlines() for part in [line.strip()] if part))


def row(*cells: str) -> None:
    """Print tab-separated cells to standard output, for scripts.

    Example:
        >>> row("test_vit" + chr(27))
        test_vit�
    """
    print(*map(printable, cells), sep="\t")


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


def make_warnings_printable() -> None:
    """Replace unprintable characters in Python's warnings and other libraries' log messages, which may name files."""
    warnings.formatwarning = _format_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())


_as_python_does = warnings.formatwarning


def _format_warning(*arguments: Any, **options: Any) -> str:
    return printable(_as_python_does(*arguments, **options), lines=True)


output = SafeConsole()
errors = SafeConsole(stderr=True)
